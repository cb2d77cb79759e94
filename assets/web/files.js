/* Traces, pages, pictures and links: what leaves the page, and what is opened on it. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { KINDS, colours, download, h, picture, sent, settingsOf, shelf, toolButton } = Playground;

  const SCALE = 2; // pixels of a picture for each of its units

  const fileName = (run, ending) => {
    const created = run.started?.created.replace(/[^0-9]/g, "").slice(0, 14) ?? "";
    return `speculative-${created}.${ending}`;
  };

  /** An SVG as the pixels of a PNG. */
  const rastered = async (svg) => {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
    await image.decode();
    const canvas = h("canvas", { width: image.width * SCALE, height: image.height * SCALE });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  };

  /** The start of a run, without the texts that were asked, which no title holds. */
  const firstLine = ({ started }) =>
    JSON.stringify({ ...started, request: { ...started.request, prompt: "", system: "", messages: [] } });

  /** JSON that can stand inside a script element. */
  const forHtml = (value) => JSON.stringify(value).replaceAll("<", "\\u003c");

  class Toolbar {
    /** view: what the files are of; linkOf: settings -> address, null where a link would lead nowhere. */
    constructor(view, server, recordings, linkOf) {
      this.view = view;
      this.store = view.store;
      this.server = server;
      this.linkOf = linkOf;
      this.shown = ""; // the recorded run that is on the page
      const { store } = this;
      const save = (ending, type, make) => async () => download(await make(), fileName(store.run, ending), type);
      this.html = server
        && toolButton(
          "Page (HTML)",
          "Save this run as one page that opens anywhere, or in a frame of another page",
          () => this.#exportPage(),
        );
      const needRun = [
        toolButton(
          "Trace (JSONL)",
          "Save every event of this run",
          save("jsonl", "application/jsonl", () => store.run.jsonl),
        ),
        this.html,
        toolButton("Plot (PNG)", "Save the plot as a picture", () => view.plot.save()),
        toolButton(
          "Race (SVG)",
          "Save headline and race as a drawing",
          save("svg", "image/svg+xml", () => this.#picture()),
        ),
        toolButton(
          "Race (PNG)",
          "Save headline and race as a picture",
          save("png", "image/png", () => rastered(this.#picture())),
        ),
      ];
      const copy = [
        toolButton(
          "answer",
          "Copy the answer's text",
          (event) => this.#copy(event, () => store.run.answer(store.run.running.at(-1))),
        ),
      ];
      this.needRun = [...needRun, ...copy].filter(Boolean);
      if (linkOf) {
        copy.push(
          toolButton("link", "Copy an address that opens this", (event) => this.#copy(event, () => this.#link())),
        );
      }
      const group = (name, ...content) =>
        h(
          "div",
          { class: "tools", role: "group", "aria-label": name },
          h("span", { class: "tools-name" }, name),
          ...content.filter(Boolean),
        );
      this.element = h(
        "section",
        { class: "toolbar", "aria-label": "Files" },
        group("Export", ...needRun),
        group("Copy", ...copy),
        group(
          "See",
          view.intro && toolButton("examples", "What to try, with what to watch", () => view.showExamples()),
          toolButton("the tour", "What is what, in four steps", () => view.begin()),
        ),
      );
      if (server) this.element.append(this.#open(group("Open"), recordings));
    }

    #picture() {
      return picture(this.store.run, colours(this.element, [...KINDS, "ink", "muted", "panel"]));
    }

    #link() {
      const { run, time } = this.store;
      if (this.shown) {
        return this.linkOf({}, { replay: this.shown, ...(time === Infinity ? {} : { at: time.toFixed(3) }) });
      }
      return this.linkOf(run.started ? settingsOf(run.started.request) : null, run.started ? { run: "1" } : {});
    }

    async #copy(event, make) {
      const button = event.currentTarget;
      const name = button.textContent;
      try {
        await navigator.clipboard.writeText(make());
        button.textContent = "copied";
      } catch (fault) {
        button.textContent = fault instanceof RangeError ? fault.message : "not allowed here";
      }
      setTimeout(() => (button.textContent = name), 1500);
    }

    #open(group, recordings) {
      const file = h("input", {
        type: "file",
        accept: ".jsonl,.json,.txt",
        class: "file",
        "aria-label": "Open a trace file",
        onchange: () => this.#import(file),
      });
      group.append(h("label", { class: "tool file-label" }, "a trace file", file));
      if (recordings.length) {
        const choice = h(
          "select",
          {
            class: "tool",
            "aria-label": "Recorded runs",
            onchange: () => this.#recording(choice),
          },
          h("option", { value: "" }, "a recorded run"),
          ...recordings.map(({ name, label }) => h("option", { value: name }, label)),
        );
        group.append(choice);
      }
      this.last = h(
        "button",
        { type: "button", class: "tool", hidden: true, onclick: () => this.#reopen() },
        "your last run",
      );
      shelf.get().then((text) => (this.last.hidden = !text || this.store.run.lines.length > 0));
      group.append(this.last);
      return group;
    }

    #recording(choice) {
      const name = choice.value;
      choice.value = "";
      if (name) this.recording(name);
    }

    /** Show a recorded run. quietly: without playing it. */
    async recording(name, quietly = false) {
      const shown = await this.view.open(this.server.recording(name), "", quietly);
      if (shown) this.shown = name;
      return shown;
    }

    async #reopen() {
      const text = await shelf.get();
      this.last.hidden = true;
      if (text) this.view.open(sent(this.server.open_trace, text), "", true);
    }

    async #import(file) {
      const [chosen] = file.files;
      file.value = "";
      if (!chosen) return;
      const text = await chosen.text();
      if (/^\s*\{/.test(text)) this.view.open(sent(this.server.open_trace, text), chosen.name);
      else this.view.refuse(chosen.name, "no trace of this playground; choose a .jsonl file exported by it.");
    }

    /** The server is told the run's first line, not the run: however long that is, it gets past every proxy. */
    async #exportPage() {
      const { run } = this.store;
      this.html.disabled = true;
      const [page, whole] = await Promise.all([
        sent(this.server.page_of, firstLine(run)),
        run.finished ? run : sent(this.server.open_trace, run.jsonl), // a run that broke off is given its end
      ]);
      this.html.disabled = false;
      const error = page.error || whole.error;
      if (error) this.view.refuse("", error);
      else download(page.before + forHtml(whole.items) + page.after, fileName(run, "html"), "text/html");
    }

    update() {
      for (const each of this.needRun) each.disabled = this.store.live || !this.store.run.lines.length;
      if (this.last && this.store.run.lines.length) this.last.hidden = true;
    }

    /** Another run is on the page. */
    reset() {
      this.shown = "";
    }
  }

  Object.assign(Playground, { Toolbar });
})();
