/* The tabs in the browser's history: Back goes to the tab before, and a link opens on its own. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const FIRST = "playground";
  const LABELS = {
    playground: "Playground",
    rounds: "Rounds",
    tune: "Tune k",
    instruments: "Instruments",
    hardware: "Hardware",
    about: "About",
  };

  const buttons = () => [...document.querySelectorAll("#tabs [role=tab]")];
  const nameOf = (button) => Object.keys(LABELS).find((name) => LABELS[name] === button.textContent.trim());
  const wanted = () => new URLSearchParams(location.search).get("tab") ?? FIRST;

  const show = (name) => {
    const button = buttons().find((each) => nameOf(each) === name);
    if (button && button.getAttribute("aria-selected") !== "true") button.click();
  };

  const addressOf = (name) => {
    const query = new URLSearchParams(location.search);
    if (name === FIRST) query.delete("tab");
    else query.set("tab", name);
    return query.size ? `?${query}` : location.pathname;
  };

  Playground.watchTabs = () => {
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.("#tabs [role=tab]");
      const name = button && nameOf(button);
      if (name && name !== wanted()) history.pushState(null, "", addressOf(name));
    });
    window.addEventListener("popstate", () => show(wanted()));
    if (wanted() === FIRST) return;
    // a run that the link asks for is started in the first tab
    const asked = new URLSearchParams(location.search).has("run");
    const waiting = setInterval(() => {
      const { run, live } = Playground.store;
      if (!buttons().length || (asked && !live && !run.lines.length && !run.error)) return;
      clearInterval(waiting);
      show(wanted());
    }, 50);
  };
})();
