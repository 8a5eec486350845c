// What is wrong with a page for people who read, point or listen, as far as it can be computed.
() => {
  const problems = [];
  const shown = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const describe = (node) => {
    const { id, className } = node;
    const name = typeof className === "string" ? className : className.baseVal;
    return `${node.tagName.toLowerCase()}${id ? `#${id}` : ""}${name ? `.${name}` : ""} "${node.textContent.trim().slice(0, 40)}"`;
  };
  const all = (selector) => [...document.querySelectorAll(selector)];

  if (!document.documentElement.lang) problems.push("no language");
  if (!document.title) problems.push("no title");
  for (const landmark of ["header", "main"]) if (all(`body > ${landmark}`).length !== 1) problems.push(`landmarks: ${landmark}`);

  const ids = all("[id]").map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) problems.push(`id ${id} is there twice`);
  for (const node of all("[aria-labelledby]").filter(shown))
    if (!document.getElementById(node.getAttribute("aria-labelledby"))?.textContent) problems.push(`${describe(node)} is labelled by nothing`);

  const levels = all("h1, h2, h3, h4").filter(shown).map((node) => Number(node.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) problems.push("not one h1");
  levels.forEach((level, place) => {
    if (place && level > levels[place - 1] + 1) problems.push(`a heading of level ${level} follows ${levels[place - 1]}`);
  });

  for (const node of all("button, a[href], input, select, summary").filter(shown)) {
    const name = node.getAttribute("aria-label") || node.labels?.[0]?.textContent || node.textContent;
    if (!name.trim()) problems.push(`${describe(node)} has no name`);
    const { width, height } = node.getBoundingClientRect();
    if (node.matches("button, input:not([type=range])") && Math.min(width, height) < 24) problems.push(`${describe(node)} is small`);
  }
  for (const node of all("img")) if (!node.hasAttribute("alt")) problems.push(`${describe(node)} has no text`);
  for (const node of all("svg, [role=img]")) if (shown(node) && !node.getAttribute("aria-label")) problems.push(`${describe(node)} has no text`);
  for (const table of all("table")) {
    if (!table.caption?.textContent) problems.push(`${describe(table)} has no caption`);
    for (const cell of table.querySelectorAll("th")) if (!cell.scope) problems.push(`${describe(cell)} has no scope`);
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
  };
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const backOf = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const back = rgba(getComputedStyle(each).backgroundColor);
      if (back[3] === 1) return back;
    }
    return [1, 1, 1, 1];
  };
  const opacityOf = (node) => {
    let opacity = 1;
    for (let each = node; each; each = each.parentElement) opacity *= Number(getComputedStyle(each).opacity);
    return opacity;
  };
  let measured = 0;
  for (const node of all("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
    if (!own || !shown(node) || node.closest(".unseen, .skip, script, template")) continue;
    const style = getComputedStyle(node);
    const back = backOf(node);
    const front = rgba(node instanceof SVGElement ? style.fill : style.color);
    const opacity = front[3] * opacityOf(node);
    const seen = front.map((part, place) => part * opacity + back[place] * (1 - opacity));
    const [light, dark] = [luminance(seen), luminance(back)].sort((one, other) => other - one);
    const contrast = (light + 0.05) / (dark + 0.05);
    measured += 1;
    if (contrast < 4.5) problems.push(`${describe(node)} has a contrast of ${contrast.toFixed(2)}`);
  }
  if (measured < 5) problems.push(`only ${measured} texts were measured`);

  for (const cell of all("td.number, th.number").filter(shown)) {
    const text = document.createRange();
    text.selectNodeContents(cell);
    const [inside, outside] = [text.getBoundingClientRect(), cell.getBoundingClientRect()];
    if (inside.left < outside.left + 2) problems.push(`${describe(cell)} touches the column before it`);
  }

  const width = document.documentElement.scrollWidth;
  if (width > window.innerWidth) {
    const beyond = all("body *").filter((node) => node.getBoundingClientRect().right > window.innerWidth);
    problems.push(`it is ${width} pixels wide: ${beyond.map(describe).join("; ")}`);
  }
  return problems;
}
