// Looked at from inside a page.  Each probe returns a list of faults, one line each.

const article = () => document.querySelector(".bd-article") ?? document.body;

function name(element) {
  const classes = [...element.classList].slice(0, 3).map((c) => "." + c).join("");
  const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
  return `<${element.localName}${element.id ? "#" + element.id : ""}${classes}> “${text}”`;
}

function rendered(element) {
  return element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
}

// Opens whatever is folded, so that hidden content is looked at as well.
function unfold() {
  const folded = document.querySelectorAll(".toggle-hidden");
  for (const box of folded) box.classList.remove("toggle-hidden");
  for (const box of document.querySelectorAll("details")) box.open = true;
}

// ------------------------------------------------------------------------------ equations
function equations() {
  const faults = [];
  for (const formula of document.querySelectorAll(".math")) {
    const box = formula.querySelector("mjx-container");
    const wrong = formula.querySelector("mjx-merror, mjx-assistive-mml [mathcolor='red']");
    if (!box) faults.push(`not rendered: ${name(formula)}`);
    else if (wrong) faults.push(`error in a formula: ${name(wrong)}`);
    else if (rendered(formula) && box.getBoundingClientRect().width < 2) {
      faults.push(`rendered without any width: ${name(formula)}`);
    }
  }
  const walker = document.createTreeWalker(article(), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { data, parentElement } = walker.currentNode;
    if (parentElement.closest("pre, code, script, style, mjx-container")) continue;
    const raw = data.match(/\$|\\[()[\]]|\\[a-zA-Z]{2,}/);
    if (raw) faults.push(`raw TeX “${raw[0]}” in ${name(parentElement)}`);
  }
  for (const font of document.fonts) {
    if (font.status === "error") faults.push(`font not loaded: ${font.family}`);
  }
  return faults;
}

// ---------------------------------------------------------------------------------- width
function scrolls(element) {
  return ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
}

// Wide content must scroll inside a box of its own, below the article; and never be cut off.
function overflow(width) {
  const faults = [];
  for (const whole of [document.documentElement, document.body, article()]) {
    if (whole.scrollWidth > width) faults.push(`${name(whole)} is ${whole.scrollWidth} px wide`);
  }
  for (const element of article().querySelectorAll(":not(mjx-container *, svg *)")) {
    if (!rendered(element)) continue;
    const style = getComputedStyle(element);
    const hidden = element.scrollWidth - element.clientWidth;
    if (["hidden", "clip"].includes(style.overflowX) && hidden > 1 && style.display !== "inline") {
      faults.push(`cut off at the right by ${hidden} px: ${name(element)}`);
    }
    const formula = element.localName === "mjx-container" || element.matches(".math");
    if (formula && ["auto", "scroll"].includes(style.overflowY)
        && element.scrollHeight > element.clientHeight + 1) {
      faults.push(`formula with a vertical scrollbar: ${name(element)}`);
    }
    const { left, right } = element.getBoundingClientRect();
    if (right <= width + 0.5 && left >= -0.5) continue;
    let box = element.parentElement;
    while (box && box !== article() && !scrolls(box)) box = box.parentElement;
    if (!box || box === article()) {
      faults.push(`reaches from ${left.toFixed()} to ${right.toFixed()} px: ${name(element)}`);
    }
  }
  return faults;
}

// ----------------------------------------------------------------------------- legibility
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();

// Any CSS color as [red, green, blue, alpha], the browser's own parser doing the work.
function rgba(color) {
  if (!known.has(color)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(color, [r, g, b, a / 255]);
  }
  return known.get(color);
}

const over = ([r, g, b, a], below) => [r, g, b].map((c, k) => a * c + (1 - a) * below[k]);

function luminance(color) {
  const [r, g, b] = color.map((c) => {
    const s = c / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function ancestors(element) {
  const chain = [];
  for (let at = element; at; at = at.parentElement) chain.unshift(at);
  return chain;
}

// What lies behind an element's text, and how opaque the text is.
function behind(element) {
  let color = [255, 255, 255];
  let opacity = 1;
  for (const at of ancestors(element)) {
    const style = getComputedStyle(at);
    color = over(rgba(style.backgroundColor), color);
    opacity *= Number(style.opacity);
  }
  return { color, opacity };
}

const backdrop = (element) => behind(element).color.map(Math.round);

// Text whose contrast with what lies behind it, from computed styles, is below `least`.
function legibility(least) {
  const faults = new Map();
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const inside = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || inside.closest("script, style, svg, template")) continue;
    const element = inside.closest("mjx-container") ?? inside;
    if (seen.has(element)) continue;
    seen.add(element);
    const { width, height } = element.getBoundingClientRect();
    const pointed = element.matches("a.headerlink"); // is there once its heading is pointed at
    if (!pointed && !element.checkVisibility({ visibilityProperty: true })) continue;
    if (width * height < 4) continue;
    const { color, opacity } = behind(element);
    const [r, g, b, a] = rgba(getComputedStyle(element).color);
    const ratio = contrast(over([r, g, b, a * opacity], color), color);
    const where = ancestors(element).slice(-3).map((e) => [e.localName, ...e.classList].join("."))
      .join(" > ");
    if (ratio < least && !(faults.get(where)?.ratio <= ratio)) {
      faults.set(where, { ratio, text: name(element) });
    }
  }
  return [...faults].map(([where, { ratio, text }]) => `${ratio.toFixed(2)}:1 ${where} ${text}`);
}

// -------------------------------------------------------------------------------- figures
function alternatives() {
  return [...article().querySelectorAll("img")]
    .filter((image) => image.alt.trim().length < 10 || /\.(svg|png)$|_images\//.test(image.alt))
    .map((image) => `no words for ${image.src.slice(0, 80)}: alt is “${image.alt}”`);
}
