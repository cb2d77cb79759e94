/* Words with their definitions, on hover and on focus. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h } = Playground;

  let definitions = {};

  /** A word with its definition on hover and on focus. */
  const term = (words, name) => h("span", { class: "term", tabindex: "0", "data-term": name }, words);

  const attachDefinitions = () => {
    const tip = h("div", { class: "pg pg-tip", role: "tooltip", id: "pg-tip", hidden: true });
    document.body.append(tip);
    const show = (event) => {
      const element = event.target.closest?.("[data-term]");
      const text = element && definitions[element.dataset.term];
      if (!text) return;
      tip.replaceChildren(h("b", {}, element.dataset.term), " ", text);
      tip.hidden = false;
      element.setAttribute("aria-describedby", "pg-tip");
      const spot = element.getBoundingClientRect();
      const left = Math.min(spot.left, document.documentElement.clientWidth - tip.offsetWidth - 12);
      tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
      const above = spot.bottom + tip.offsetHeight + 12 > window.innerHeight;
      tip.style.top = `${(above ? spot.top - tip.offsetHeight - 6 : spot.bottom + 6) + window.scrollY}px`;
    };
    const hide = (event) => {
      tip.hidden = true;
      event.target.closest?.("[data-term]")?.removeAttribute("aria-describedby");
    };
    for (const type of ["pointerover", "focusin"]) document.addEventListener(type, show);
    for (const type of ["pointerout", "focusout"]) document.addEventListener(type, hide);
    document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
  };

  let defined = false;
  const define = (text) => {
    definitions = text;
    if (!defined) attachDefinitions();
    defined = true;
  };

  Object.assign(Playground, { define, term });
})();
