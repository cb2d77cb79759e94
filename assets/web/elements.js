/* Elements made by hand: text is always text, never markup. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** An element: h("div", { class: "x", onclick }, child or text, ...). Text is always text. */
  const h = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  /** A share (0 to 1) as a bar. */
  const bar = (value, className = "") => {
    const fill = h("i", { class: `bar-fill ${className}` });
    fill.style.width = `${Math.min(1, Math.max(0, value)) * 100}%`;
    return h("span", { class: "bar" }, fill);
  };

  /** A button of the page's own tools. */
  const toolButton = (label, title, onclick, className = "") =>
    h("button", { type: "button", class: `tool ${className}`, title, onclick }, label);

  /** Where a text is the same already, nothing is laid out anew. */
  const setText = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  /** Colours of the palette as the page shows them now, light or dark, by name. */
  const colours = (element, names) => {
    const style = getComputedStyle(element);
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  };

  /** Give a text, or what a Blob may hold, to the person as a file. */
  const download = (content, name, type) => {
    const url = URL.createObjectURL(new Blob([content], { type }));
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };

  Object.assign(Playground, { bar, colours, download, h, setText, toolButton });
})();
