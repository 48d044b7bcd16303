// Where lines break.  The stop after a formula, and the bracket before it, stay on the formula's
// line: a browser may break there, because a formula is a box and not a word.  A dotted name in a
// table may break after a dot or an underscore.
document.addEventListener("DOMContentLoaded", () => {
  for (const name of document.querySelectorAll("table code .pre")) {
    name.innerHTML = name.innerHTML.replace(/[._(](?!$)/g, "$&<wbr>");
  }
  const text = (node) => (node?.nodeType === Node.TEXT_NODE ? node.data : "");
  for (const formula of document.querySelectorAll("span.math")) {
    const open = text(formula.previousSibling).match(/[(\[“‘]+$/)?.[0] ?? "";
    const stop = text(formula.nextSibling).match(/^(?:[-–’]\w+)?[.,;:!?)\]’”]*/)?.[0] ?? "";
    if (!open && !stop) continue;
    const line = document.createElement("span");
    line.className = "math-stop";
    formula.before(line);
    if (open) {
      const before = line.previousSibling;
      line.append(before.splitText(before.length - open.length));
    }
    line.append(formula);
    if (stop) {
      const after = line.nextSibling;
      after.splitText(stop.length);
      line.append(after);
    }
  }
});
