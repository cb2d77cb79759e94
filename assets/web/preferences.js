/* What this browser remembers of how a person likes the page: slow motion, light or dark. Nothing of it leaves the browser. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const NAME = "speculative-sampling-playground";

  const read = () => {
    try {
      return JSON.parse(localStorage.getItem(NAME)) ?? {};
    } catch {
      return {}; // a file, or a browser that keeps nothing
    }
  };
  const remember = (changes) => {
    try {
      localStorage.setItem(NAME, JSON.stringify({ ...read(), ...changes }));
    } catch {
      // then it lasts as long as the page
    }
  };

  const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** Whether runs are to be seen again in slow motion: as chosen here, but never where the system asks for less motion. */
  const wantsSlowMotion = () => !still() && (read().slowMotion ?? true);
  const keepSlowMotion = (store, wanted) => {
    store.slowMotion = wanted;
    remember({ slowMotion: wanted });
  };

  /** Light or dark: as chosen here, else as the system has it. */
  const dressPage = () => {
    const { dark } = read();
    if (dark !== undefined) document.body.classList.toggle("dark", dark);
    return dark;
  };
  /** Call `dress` whenever the page's colours may have become others. */
  const whenDressed = (dress) => {
    new MutationObserver(dress).observe(document.body, { attributeFilter: ["class"] });
    window.matchMedia("(forced-colors: active)").addEventListener("change", dress);
  };

  /** On paper the page is light: a printer leaves the ground out, and pale letters would be lost. */
  const printLight = () => {
    let dark = false;
    globalThis.addEventListener("beforeprint", () => {
      dark = document.body.classList.contains("dark");
      document.body.classList.remove("dark");
    });
    globalThis.addEventListener("afterprint", () => document.body.classList.toggle("dark", dark));
  };

  const switchDress = () => remember({ dark: document.body.classList.toggle("dark") });

  Object.assign(Playground, { dressPage, keepSlowMotion, printLight, switchDress, wantsSlowMotion, whenDressed });
})();
