"use strict";
// Draws what view.py describes. Runs alike in a report, with no kernel, and in a notebook's widget.
const workbenchView = (() => {
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in made && name !== "list") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  const number = (value, digits) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const text = value.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  };

  const decimals = (value, field) =>
    field.significant === null || !value ? field.digits ?? 0
      : Math.max(0, field.significant - 1 - Math.floor(Math.log10(Math.abs(value))));

  const look = (tables, table, by, choice) => {
    if (Array.isArray(table)) {
      const several = table.map((name) => look(tables, name, by, choice) ?? []);
      return several[0].map((row, i) => row.map((_, j) => several.map((one) => one[i][j])));
    }
    const within = (found, control) => found?.[Math.min(choice[control], found.length - 1)];
    return by.reduce(within, tables[table]) ?? null;
  };

  const put = (figure, at, value) => {
    const last = at[at.length - 1];
    at.slice(0, -1).reduce((place, step) => place[step], figure)[last] = value;
  };

  // Plotly redraws a whole plot to move one mark. This moves the mark alone, and tells Plotly.
  const moveShape = (node, index, moved) => {
    const full = node._fullLayout;
    const shape = Object.assign(full.shapes[index], moved);
    const pixel = (reference, value) => {
      if (reference === "paper") return full._size.t + (1 - value) * full._size.h;
      const axis = full[reference.replace(/^([xy])/, "$1axis")];
      return axis._offset + axis.d2p(value);
    };
    const path = node.querySelector(`.shapelayer path[data-index="${index}"]`);
    if (shape.type === "circle") {
      // Of a fixed size in pixels, around its anchor; without a value there is none.
      path.style.display = shape.yanchor === null ? "none" : "";
      const [x, y] = [pixel(shape.xref, shape.xanchor), pixel(shape.yref, shape.yanchor)];
      const r = shape.x1;
      path.setAttribute("d", `M${x + r},${y}A${r},${r} 0 1,1 ${x},${y - r}A${r},${r} 0 0,1 ${x + r},${y}Z`);
      return;
    }
    const [x0, x1] = [shape.x0, shape.x1].map((value) => pixel(shape.xref, value));
    const [y0, y1] = [shape.y0, shape.y1].map((value) => pixel(shape.yref, value));
    path.setAttribute("d", shape.type === "rect"
      ? `M${x0},${y0}H${x1}V${y1}H${x0}Z` : `M${x0},${y0}L${x1},${y1}`);
  };

  // Plotly would put a circle without an anchor somewhere.
  const hideUnplaced = (node) => (node.layout.shapes ?? []).forEach((shape, index) => {
    if (shape.type === "circle" && shape.yanchor === null) moveShape(node, index, shape);
  });

  // host: {Plotly, template, config, choose(choice), release(choice), press(name), ask(prompt)},
  // the last five only where something listens.
  const mount = (root, view, host) => {
    const { Plotly, template, config } = host;
    let tables = view.tables;
    let stale = false;
    let drawn = Promise.resolve();
    const choice = {};
    const inputs = {};
    const plots = {};
    const changed = new Set();
    for (const control of view.controls) choice[control.name] = control.chosen;
    Object.assign(choice, host.choice ?? {});

    // ---- controls

    const set = (name, place, { told = true } = {}) => {
      const control = view.controls.find((one) => one.name === name);
      const next = Math.min(Math.max(place, 0), control.options.length - 1);
      if (next !== choice[name]) {
        choice[name] = next;
        changed.add(name);
        if (told) host.choose?.({ ...choice });
        ask();
      }
      show(control);
    };

    const show = (control) => {
      const { input, output } = inputs[control.name];
      const place = choice[control.name];
      const option = control.options[place];
      if (control.kind === "number") {
        // Not while the same number is being typed another way, such as "07".
        if (Number(input.value) !== Number(option)) input.value = option;
        return;
      }
      input.value = String(place);
      if (control.kind === "slider") {
        input.setAttribute("aria-valuetext", option);
        output.textContent = option;
      }
    };

    // A number box counts in steps of 1; where options are sparser it goes to the next there is.
    const nearest = (control, text) => {
      const offered = control.options.map(Number);
      const wanted = Number(text);
      if (text === "" || !Number.isFinite(wanted)) return null;
      const now = offered[choice[control.name]];
      const ahead = offered.filter((one) => (wanted > now ? one >= wanted : one <= wanted));
      if (Math.abs(wanted - now) <= 1 && !offered.includes(wanted)) {
        if (!ahead.length) return choice[control.name];
        return offered.indexOf(wanted > now ? Math.min(...ahead) : Math.max(...ahead));
      }
      const distance = offered.map((one) => Math.abs(one - wanted));
      return distance.indexOf(Math.min(...distance));
    };

    const makeControl = (control) => {
      const offered = control.options;
      const output = element("output");
      let input;
      if (control.kind === "select") {
        input = element("select", {}, ...offered.map((label, index) => new Option(label, index)));
        input.addEventListener("change", () => { set(control.name, Number(input.value)); release(); });
      } else if (control.kind === "slider") {
        input = element("input", { type: "range", min: 0, max: offered.length - 1, step: 1 });
        input.addEventListener("input", () => set(control.name, Number(input.value)));
        input.addEventListener("change", () => release());
      } else {
        const values = offered.map(Number);
        input = element("input", {
          type: "number", step: 1, min: Math.min(...values), max: Math.max(...values),
        });
        const take = () => {
          const place = nearest(control, input.value);
          if (place !== null) set(control.name, place);
        };
        input.addEventListener("input", take);
        input.addEventListener("change", () => { take(); show(control); release(); });
        input.addEventListener("blur", () => show(control));
      }
      input.name = control.name;
      input.setAttribute("aria-label", control.label);
      inputs[control.name] = { input, output };
      const label = element("label", {}, element("span", {}, control.label), input);
      if (control.kind === "slider") label.append(output);
      label.className = control.kind;
      label.hidden = control.options.length < 2;
      return label;
    };

    const release = () => host.release?.({ ...choice });

    // ---- what moves with them

    const paintPlot = (plot, all) => {
      const { node, figure } = plots[plot.name];
      const due = plot.bound.filter((one) => all || one.by.some((name) => changed.has(name)));
      if (!due.length && !all) return null;
      for (const one of due) put(figure, one.at, look(tables, one.table, one.by, choice));
      if (!all && due.every(({ at }) => at[1] === "shapes" && at.length === 4)) {
        for (const index of new Set(due.map(({ at }) => at[2]))) {
          moveShape(node, index, figure.layout.shapes[index]);
        }
        return null;
      }
      // uirevision keeps zoom and hidden arms; a new object lets Plotly see what differs.
      const layout = { ...figure.layout, template, uirevision: "kept" };
      const data = figure.data.map((trace) => ({ ...trace }));
      return Plotly.react(node, data, layout, config).then(() => hideUnplaced(node));
    };

    const paintWords = () => {
      for (const one of view.words) {
        const text = one.text.replace(/\{(\w+)\}/g, (_, name) => {
          const field = one.fields[name];
          if (!field) {
            const control = view.controls.find((each) => each.name === name);
            return control.options[choice[name]];
          }
          const value = look(tables, field.table, field.by, choice);
          if (field.digits === null && field.significant === null) return String(value ?? "");
          return number(value, decimals(value, field));
        });
        const node = root.querySelector(`[data-words="${one.name}"]`);
        if (node.textContent !== text) node.textContent = text;
      }
      for (const one of view.cells) {
        const rows = look(tables, one.table, one.by, choice) ?? [];
        const body = root.querySelector(`[data-cells="${one.name}"] tbody`);
        body.replaceChildren(...rows.map((row) => element("tr", {},
          ...row.map((cell, index) => element(index ? "td" : "th", index ? {} : { scope: "row" },
            String(cell))))));
        body.closest("table").hidden = !rows.length;
      }
    };

    const paint = (all) => {
      asked = false;
      const everything = all || stale;
      stale = false;
      const waiting = view.plots.map((plot) => paintPlot(plot, everything)).filter(Boolean);
      paintWords();
      changed.clear();
      drawn = Promise.all(waiting).then(() => {
        root.dispatchEvent(new CustomEvent("workbench:painted", { detail: { ...choice } }));
      }).catch((error) => tell({ words: `This cannot be drawn: ${error.message}` }));
      return drawn;
    };

    let asked = false;
    const ask = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => paint(false));
    };

    const makePlot = (plot) => {
      const height = plot.figure.layout.height ?? 400;
      const node = element("div", { className: "workbench-plot", role: "group", "aria-label": plot.alt });
      node.style.height = `${height}px`;
      plots[plot.name] = { node, figure: plot.figure };
      return node;
    };

    const listen = (plot) => {
      const places = (point) => {
        const index = point.pointIndex ?? point.pointNumber;
        return Array.isArray(index) ? { row: index[0], column: index[1] } : { index };
      };
      plots[plot.name].node.on?.("plotly_click", (event) => {
        const clicked = places(event.points[0]);
        for (const [control, which] of Object.entries(plot.click)) {
          if (clicked[which] !== undefined) set(control, clicked[which]);
        }
        release();
      });
    };

    // ---- the page

    root.classList.add("workbench-view");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", view.title);
    // JupyterLab would take arrow keys and letters for its own commands.
    root.addEventListener("keydown", (event) => event.stopPropagation());
    const controls = element("div", { className: "workbench-controls" },
      ...view.controls.map(makeControl));
    const buttons = view.buttons.filter(() => host.press).map((button) => {
      const made = element("button", { type: "button", name: button.name }, button.label);
      made.addEventListener("click", () => host.press(button.name));
      return made;
    });
    const status = element("p", { className: "workbench-status", role: "status" });
    const bar = element("progress", { max: 1, hidden: true, "aria-label": "progress" });
    const grid = element("div", { className: "workbench-plots" }, ...view.plots.map(makePlot));
    const say = (one) => element("p", { "data-words": one.name, "aria-live": one.below ? "off" : "polite" });
    const words = view.words.filter((one) => !one.below).map(say);
    const below = view.words.filter((one) => one.below).map(say);
    const cells = view.cells.map((one) => {
      const head = element("tr", {}, ...one.header.map((text) => element("th", { scope: "col" }, text)));
      return element("table", { "data-cells": one.name },
        element("caption", {}, one.caption), element("thead", {}, head), element("tbody"));
    });
    controls.append(...buttons);
    root.replaceChildren(controls, bar, status, ...words, grid, ...cells, ...below);

    const answer = element("blockquote", { className: "workbench-answer", "aria-live": "polite" });
    if (view.ask && host.ask) {
      const prompt = element("textarea", {
        name: "prompt", rows: 2, placeholder: "Ctrl+Enter, or the button, asks",
      });
      const send = element("button", { type: "button", name: "ask" }, "Answer");
      const go = () => { if (prompt.value.trim()) host.ask(prompt.value); };
      send.addEventListener("click", go);
      prompt.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) go();
      });
      root.append(element("div", { className: "workbench-ask" },
        element("label", {}, element("span", {}, view.ask), prompt), send, answer));
    }

    const tell = (news) => {
      status.textContent = news?.words ?? "";
      status.hidden = !news?.words;
      bar.hidden = news?.progress === undefined || news.progress === null;
      if (!bar.hidden) bar.value = news.progress;
      root.setAttribute("aria-busy", String(Boolean(news?.busy)));
      for (const button of root.querySelectorAll("button")) {
        button.disabled = (news?.disabled ?? []).includes(button.name)
          || (button.name === "ask" && Boolean(news?.busy));
      }
      answer.replaceChildren(...(news?.answer ?? []).map((line) => element("p", {}, line)));
    };

    view.controls.forEach(show);
    tell(host.status);
    paint(true).then(() => view.plots.forEach(listen));
    // Words and tables change the height; only another width concerns the plots.
    let width = root.clientWidth;
    const resized = new ResizeObserver(() => {
      if (root.clientWidth === width) return;
      width = root.clientWidth;
      for (const { node } of Object.values(plots)) {
        if (node.isConnected && node.clientWidth && node.data) Plotly.Plots.resize(node);
      }
    });
    resized.observe(root);

    return {
      choose: (wanted) => {
        for (const control of view.controls) {
          if (wanted[control.name] !== undefined) set(control.name, wanted[control.name], { told: false });
        }
      },
      fill: (fresh) => { tables = fresh; stale = true; ask(); },
      tell,
      drawn: () => drawn,
      remove: () => {
        resized.disconnect();
        for (const { node } of Object.values(plots)) Plotly.purge(node);
        root.replaceChildren();
      },
    };
  };

  return { mount };
})();
