/* The conversation above the prompt, each turn to be changed; and going on from the answer of the run on the page. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { adjust, answersOf, asking, conversation, h, store, systemOf, toolButton, turnsAfter } = Playground;

  const WHO = { user: "You", assistant: "Answer" };
  const typeHere = () => document.querySelector("#prompt textarea")?.focus();

  /** Ask this next. */
  const ask = (prompt, settings = {}) => {
    adjust({ ...settings, prompt });
    typeHere();
  };

  const answerEditor = (place, content, done) => {
    const words = h("textarea", { "aria-label": "The answer, in other words", rows: "4", dir: "auto" });
    words.value = content;
    const keep = () => words.value.trim() ? ask(conversation.reword(place, words.value, asking())) : done();
    setTimeout(() => words.focus());
    return h(
      "div",
      { class: "chat-editor" },
      words,
      toolButton("Keep", "Go on from these words; what followed leaves", keep),
      toolButton("Cancel", "Leave the answer as it is", done),
    );
  };

  const turn = ({ role, content }, place) => {
    const words = h("p", { dir: "auto" }, content);
    const draw = () => item.replaceChildren(h("b", {}, WHO[role]), words, edit);
    const act = role === "user"
      ? () => ask(conversation.branch(place, asking()))
      : () => item.replaceChildren(h("b", {}, WHO[role]), answerEditor(place, content, draw));
    const title = role === "user"
      ? "Ask this turn anew, in other words; what followed leaves"
      : "Put other words into this answer";
    const edit = toolButton("edit", title, act);
    edit.setAttribute("aria-label", `edit turn ${place + 1}, ${role === "user" ? "yours" : "an answer"}`);
    const item = h("li", { class: `chat-${role}` });
    draw();
    return item;
  };

  const draw = (element) => {
    const { turns, room, before } = conversation;
    element.hidden = !turns.length && !before;
    const list = h(
      "ol",
      { class: "chat-turns", tabindex: "0", "aria-label": "Earlier turns" },
      ...turns.map(turn),
    );
    element.replaceChildren(
      h(
        "header",
        {},
        h("h2", {}, turns.length ? "The conversation so far" : "A new beginning"),
        h("span", { class: "chat-room", role: "status" }, room),
        before && toolButton("Undo", "Back to the conversation as it was", () => ask(conversation.undo())),
        toolButton("New conversation", "Ask without these turns", () => {
          conversation.set([]);
          typeHere();
        }),
      ),
      ...(turns.length ? [list] : []),
    );
    list.scrollTop = list.scrollHeight;
  };

  Playground.mountChat = (mount) => {
    const element = h("section", { class: "pg chat", "aria-label": "Conversation" });
    mount.replaceChildren(element);
    conversation.addEventListener("change", () => draw(element));
    draw(element);
  };

  /** The buttons under a finished run: one where the arms agree; else the person chooses whose answer is kept. */
  Playground.goOn = () => {
    const element = h("div", { class: "tools go-on", role: "group", "aria-label": "Go on" });
    const from = ({ name, text }) =>
      toolButton(
        name ? `from ${name.toLowerCase()}'s answer` : "from this answer",
        "Ask on: both arms read this conversation and answer again",
        () => {
          const { started, analysis } = store.run;
          conversation.set(turnsAfter(store.run, text), analysis?.room ?? "");
          const { chat_template: template } = started.request;
          ask("", { system: systemOf(started.request), chat_template: template });
          document.querySelector("#chat")?.scrollIntoView({ block: "nearest" });
        },
      );
    const update = () => {
      const answers = store.live ? [] : answersOf(store.run);
      element.hidden = !answers.length;
      const differ = answers.length > 1 ? h("span", { class: "go-on-why" }, "the answers differ:") : null;
      element.replaceChildren(
        h("span", { class: "tools-name" }, "Go on"),
        ...[differ].filter(Boolean),
        ...answers.map(from),
      );
    };
    store.on("run state", update);
    update();
    return element;
  };
})();
