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

// A displayed equation that is wider than its column is set smaller, down to three quarters of its size; a still wider one scrolls.
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const widths = new Map();
  const fit = (boxes) => {
    const formulas = boxes.flatMap((box) => [...box.querySelectorAll("mjx-container[display]")]);
    for (const formula of formulas) {
      formula.dataset.size ??= parseFloat(formula.style.fontSize) || 100;
      formula.style.fontSize = `${formula.dataset.size}%`;
    }
    const parts = formulas.map((formula) => (formula.clientWidth - 1) / formula.scrollWidth);
    formulas.forEach((formula, i) => {
      if (formula.clientWidth && parts[i] < 0.999) formula.style.fontSize = `${formula.dataset.size * Math.max(parts[i], 0.75)}%`;
    });
  };
  const watch = new ResizeObserver((entries) => {
    const changed = entries.filter(({ target, contentRect }) => contentRect.width && widths.get(target) !== contentRect.width);
    for (const { target, contentRect } of changed) widths.set(target, contentRect.width);
    fit(changed.map(({ target }) => target));
  });
  for (const box of document.querySelectorAll("div.math")) watch.observe(box);
});
