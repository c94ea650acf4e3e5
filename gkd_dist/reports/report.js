"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2"];

  function element(tag, attributes, parent, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function html(tag, name, parent, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function short(value) {
    if (value === null || value === undefined) return "-";
    const size = Math.abs(value);
    if (size >= 1e4) return value.toLocaleString("en", { maximumFractionDigits: 0 });
    if (size > 0 && size < 1e-3) return String(Number(value.toPrecision(3)).toExponential());
    return String(Number(value.toPrecision(4)));
  }

  function clock(seconds) {
    if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
    const whole = Math.round(seconds);
    if (whole < 3600) return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
    return `${Math.floor(whole / 3600)}:${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} h`;
  }

  /* Round numbers over [low, high], about so many. */
  function ticks(low, high, count, whole) {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    let step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999) || power;
    if (whole) step = Math.max(1, Math.round(step));
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
    return found;
  }

  function timeTicks(low, high, count) {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
    const raw = (high - low) / count;
    if (raw < 1) return ticks(low, high, count, false);
    const step = steps.find((each) => each >= raw) || 86400 * Math.ceil(raw / 86400);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
    return found;
  }

  function range(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }

  /* What line charts and timelines share: size, x axis, zoom by dragging, a tip under the pointer. */
  class Plot {
    constructor(figure, label) {
      this.figure = figure;
      this.legend = html("div", "legend", figure);
      this.svg = element("svg", { role: "img", "aria-label": label, tabindex: "0" });
      figure.append(this.svg);
      this.tip = html("div", "tip", figure);
      this.tip.hidden = true;
      this.svg.addEventListener("pointermove", (event) => this.moved(event));
      this.svg.addEventListener("pointerleave", () => this.left());
      this.svg.addEventListener("pointerdown", (event) => { this.from = this.place(event); });
      this.svg.addEventListener("pointerup", (event) => this.chosen(this.place(event)));
      this.svg.addEventListener("dblclick", () => { this.view = null; this.draw(); });
      new ResizeObserver(() => { if (this.figure.clientWidth !== this.drawnFor) this.draw(); }).observe(figure);
    }

    begin(height, left) {
      this.drawnFor = this.figure.clientWidth;
      this.width = Math.max(240, this.svg.clientWidth || 600);
      this.height = height;
      this.box = { left, right: this.width - 14, top: 10, bottom: height - 38 };
      this.svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
      this.svg.setAttribute("height", height);
      this.svg.replaceChildren();
      this.tip.hidden = true;
    }

    place(event) {
      const frame = this.svg.getBoundingClientRect();
      return ((event.clientX - frame.left) / frame.width) * this.width;
    }

    x(value) {
      const [low, high] = this.shown;
      return this.box.left + ((value - low) / (high - low)) * (this.box.right - this.box.left);
    }

    value(place) {
      const [low, high] = this.shown;
      return low + ((place - this.box.left) / (this.box.right - this.box.left)) * (high - low);
    }

    axis(values, words, label) {
      const { left, right, bottom } = this.box;
      element("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }, this.svg);
      values.forEach((value, index) => {
        const x = this.x(value);
        element("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "axis" }, this.svg);
        words[index].split(", ").forEach((part, line) => {
          element("text", { x, y: bottom + 17 + 13 * line, "text-anchor": "middle" }, this.svg, part);
        });
      });
      if (label) element("text", { x: (left + right) / 2, y: this.height - 4, "text-anchor": "middle" }, this.svg, label);
    }

    moved(event) {
      const place = Math.min(this.box.right, Math.max(this.box.left, this.place(event)));
      if (this.from !== undefined && this.from !== null && event.buttons) {
        if (this.choice) this.choice.remove();
        const [start, end] = [Math.min(this.from, place), Math.max(this.from, place)];
        this.choice = element("rect", {
          x: start, width: end - start, y: this.box.top, height: this.box.bottom - this.box.top, class: "choice",
        }, this.svg);
        return;
      }
      this.point(this.value(place), event);
    }

    chosen(place) {
      const from = this.from;
      this.from = null;
      if (this.choice) this.choice.remove();
      if (from === undefined || from === null || Math.abs(place - from) < 8) return;
      const clamp = (each) => Math.min(this.box.right, Math.max(this.box.left, each));
      const view = [this.value(clamp(Math.min(from, place))), this.value(clamp(Math.max(from, place)))];
      if (view[1] - view[0] < (this.whole[1] - this.whole[0]) / 1e5) return;
      this.view = view;
      this.draw();
    }

    left() {
      this.tip.hidden = true;
      if (this.cursor) this.cursor.remove();
    }

    say(rows, x, y) {
      this.tip.replaceChildren();
      for (const [words, colour] of rows) {
        const line = html("div", "", this.tip);
        if (colour !== undefined) html("span", `swatch c${colour}`, line);
        line.append(words);
      }
      this.tip.hidden = false;
      const scale = this.svg.clientWidth / this.width || 1;
      const left = this.svg.offsetLeft + x * scale;
      const room = this.figure.clientWidth - this.tip.offsetWidth - 8;
      this.tip.style.left = `${Math.max(4, Math.min(room, left + 12))}px`;
      this.tip.style.top = `${this.svg.offsetTop + y * scale}px`;
    }
  }

  class LinePlot extends Plot {
    constructor(figure, chart) {
      super(figure, `${chart.title}. ${chart.lines.map((line) => LinePlot.words(line)).join(". ")}`);
      this.chart = chart;
      this.hidden = new Set();
      if (chart.lines.length > 1) chart.lines.forEach((line, index) => this.entry(line, index));
      const [low, high] = range(chart.lines.flatMap((line) => line.x));
      this.whole = low === high ? [low - 0.5, high + 0.5] : [low, high];
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.draw();
    }

    static words(line) {
      const values = line.y.filter((value) => value !== null);
      return `${line.name}: ${short(values[0])} at first, ${short(values[values.length - 1])} at last`;
    }

    entry(line, index) {
      const button = html("button", "", this.legend);
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const key = element("svg", { viewBox: "0 0 26 10", class: `c${line.colour}`, "aria-hidden": "true" });
      element("line", {
        x1: 0, x2: 26, y1: 5, y2: 5, stroke: "currentColor", "stroke-width": 2.5,
        "stroke-dasharray": DASHES[line.colour % DASHES.length],
      }, key);
      button.append(key, line.name);
      button.addEventListener("click", () => {
        if (this.hidden.has(index)) this.hidden.delete(index); else this.hidden.add(index);
        button.setAttribute("aria-pressed", String(!this.hidden.has(index)));
        this.draw();
      });
    }

    get lines() { return this.chart.lines.filter((_, index) => !this.hidden.has(index)); }

    draw() {
      this.begin(250, 52);
      this.shown = this.view || this.whole;
      const inside = (line) => line.y.filter((_, at) => line.x[at] >= this.shown[0] && line.x[at] <= this.shown[1]);
      let [low, high] = range(this.lines.flatMap(inside));
      if (!Number.isFinite(low)) [low, high] = [0, 1];
      if (low > 0 && low < high * 0.5) low = 0;
      if (low === high) [low, high] = low > 0 ? [0, low * 1.2] : [low - 1, high + 1];
      const pad = (high - low) * 0.06;
      this.bounds = [low === 0 ? 0 : low - pad, high + pad];
      const { left, right, top, bottom } = this.box;
      for (const value of ticks(this.bounds[0], this.bounds[1], 4, false)) {
        element("line", { x1: left, x2: right, y1: this.y(value), y2: this.y(value), class: "axis" }, this.svg);
        element("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, this.svg, short(value));
      }
      const found = ticks(this.shown[0], this.shown[1], Math.max(2, Math.floor((right - left) / 75)), true);
      this.axis(found, found.map(short), this.chart.x_label);
      for (const [at, label] of this.chart.marks) {
        if (at < this.shown[0] || at > this.shown[1]) continue;
        const line = element("line", { x1: this.x(at), x2: this.x(at), y1: top, y2: bottom, class: "mark" }, this.svg);
        element("title", {}, line, label);
        element("text", { x: this.x(at) + 3, y: top + 9 }, this.svg, label);
      }
      const clip = `clip-${this.chart.id}`;
      const frame = element("clipPath", { id: clip }, this.svg);
      element("rect", { x: left, y: top - 2, width: right - left, height: bottom - top + 4 }, frame);
      const layer = element("g", { "clip-path": `url(#${clip})` }, this.svg);
      for (const line of this.lines) {
        const dash = this.chart.lines.length > 1 ? DASHES[line.colour % DASHES.length] : "";
        const name = { class: `line c${line.colour}`, stroke: "currentColor", "stroke-dasharray": dash };
        if (line.smooth.length) {
          this.path(line, line.y, { ...name, class: `${name.class} raw`, "stroke-dasharray": "" }, layer);
          this.path(line, line.smooth, name, layer);
        } else {
          this.path(line, line.y, name, layer);
        }
      }
    }

    path(line, values, attributes, layer) {
      let word = "", open = false, points = 0;
      values.forEach((value, at) => {
        if (value === null) { open = false; return; }
        word += `${open ? "L" : "M"}${this.x(line.x[at]).toFixed(1)} ${this.y(value).toFixed(1)}`;
        const lone = !open && (at + 1 === values.length || values[at + 1] === null);
        if (lone) element("circle", {
          cx: this.x(line.x[at]), cy: this.y(value), r: 3, fill: "currentColor", class: `c${line.colour}`,
        }, layer);
        open = true;
        points++;
      });
      element("path", { d: word, "data-name": line.name, "data-points": points, ...attributes }, layer);
    }

    y(value) {
      const [low, high] = this.bounds;
      return this.box.bottom - ((value - low) / (high - low)) * (this.box.bottom - this.box.top);
    }

    key(event) {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight" && event.key !== "Escape") return;
      event.preventDefault();
      if (event.key === "Escape") { this.view = null; this.draw(); return; }
      const all = [...new Set(this.lines.flatMap((line) => line.x))].sort((one, other) => one - other);
      const now = all.findIndex((each) => each >= (this.at ?? all[0]));
      const next = all[Math.min(all.length - 1, Math.max(0, now + (event.key === "ArrowRight" ? 1 : -1)))];
      this.point(next);
    }

    point(value) {
      if (this.cursor) this.cursor.remove();
      let at = null;
      for (const line of this.lines) {
        for (const each of line.x) if (at === null || Math.abs(each - value) < Math.abs(at - value)) at = each;
      }
      if (at === null) return;
      this.at = at;
      const x = this.x(at);
      this.cursor = element("line", { x1: x, x2: x, y1: this.box.top, y2: this.box.bottom, class: "cursor" }, this.svg);
      const rows = [[`${this.chart.x_label} ${short(at)}`]];
      for (const line of this.lines) {
        const index = line.x.indexOf(at);
        if (index >= 0) rows.push([`${line.name}: ${short(line.y[index])}`, line.colour]);
      }
      this.say(rows, x, this.box.top);
    }
  }

  class BarPlot extends Plot {
    constructor(figure, chart) {
      const words = chart.bars.map((bar) => `${bar.name}: ${bar.y.map(short).join(", ")}`);
      super(figure, `${chart.title}. ${chart.categories.join(", ")}. ${words.join(". ")}`);
      this.chart = chart;
      this.whole = [0, chart.categories.length];
      if (chart.bars.length > 1) {
        for (const bar of chart.bars) {
          const key = html("span", "key", this.legend);
          html("span", `swatch c${bar.colour}`, key).style.opacity = this.strength(bar);
          key.append(bar.name);
        }
      }
      this.draw();
    }

    /* Bars of one colour are one run before and after: the former is paler. */
    strength(bar) {
      const same = this.chart.bars.filter((each) => each.colour === bar.colour);
      return same.length > 1 && same.indexOf(bar) === 0 ? 0.5 : 1;
    }

    draw() {
      this.begin(250, 52);
      this.view = null;
      this.shown = this.whole;
      const { left, right, top, bottom } = this.box;
      const high = Math.max(range(this.chart.bars.flatMap((bar) => bar.y))[1], 1e-9) * 1.12;
      const y = (value) => bottom - (value / high) * (bottom - top);
      for (const value of ticks(0, high, 4, false)) {
        element("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "axis" }, this.svg);
        element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, this.svg, short(value));
      }
      const wide = (right - left) / this.chart.categories.length;
      const every = Math.ceil((this.chart.categories.length * 34) / (right - left));
      const places = this.chart.categories.map((_, at) => at + 0.5);
      const kept = places.filter((_, at) => at % every === 0);
      this.axis(kept, kept.map((at) => this.fitted(this.chart.categories[at - 0.5], wide * every)), this.chart.x_label);
      const bar = Math.min(56, (wide * 0.8) / this.chart.bars.length);
      this.chart.categories.forEach((category, at) => {
        const start = left + (at + 0.5) * wide - (bar * this.chart.bars.length) / 2;
        this.chart.bars.forEach((each, index) => {
          const value = each.y[at];
          if (value === null) return;
          const made = element("rect", {
            x: start + index * bar + 1, width: Math.max(1, bar - 2), y: y(value), height: Math.max(0, bottom - y(value)),
            fill: "currentColor", class: `c${each.colour}`, opacity: this.strength(each), rx: 2,
            "data-name": each.name, "data-category": category, "data-value": value,
          }, this.svg);
          element("title", {}, made, `${each.name}, ${category}: ${short(value)}`);
          if (bar >= 30 && value > 0) {
            element("text", {
              x: start + (index + 0.5) * bar, y: y(value) - 4, "text-anchor": "middle", class: "value",
            }, this.svg, short(value));
          }
        });
      });
    }

    fitted(words, room) {
      const most = Math.max(3, Math.floor(room / 6.2));
      const cut = (part) => (part.length > most ? `${part.slice(0, most - 1)}.` : part);
      return words.split(", ").map(cut).join(", ");
    }

    point(place) {
      const at = Math.min(this.chart.categories.length - 1, Math.max(0, Math.floor(place)));
      const rows = [[`${this.chart.categories[at]}`]];
      for (const bar of this.chart.bars) rows.push([`${bar.name}: ${short(bar.y[at])}`, bar.colour]);
      this.say(rows, this.x(at + 0.5), this.box.top);
    }

    chosen() { this.from = null; if (this.choice) this.choice.remove(); }
  }

  class FlamePlot extends Plot {
    constructor(figure, step) {
      super(figure, step.words);
      this.step = step;
      this.whole = [0, step.step_s];
      this.draw();
    }

    draw() {
      const wide = 26, thin = 20, gap = 10;
      this.lane = wide + thin + gap;
      this.begin(this.step.rows.length * this.lane + 48, 76);
      this.shown = this.view || this.whole;
      this.items = [];
      const { left, right, top, bottom } = this.box;
      const hatch = `hatch-${this.step.id}`;
      const size = { width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
      const pattern = element("pattern", { id: hatch, ...size }, this.svg);
      element("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "hatch" }, pattern);
      const clip = `clip-${this.step.id}`;
      const frame = element("clipPath", { id: clip }, this.svg);
      element("rect", { x: left, y: 0, width: right - left, height: bottom + 2 }, frame);
      const layer = element("g", { "clip-path": `url(#${clip})` }, this.svg);
      const found = ticks(this.shown[0], this.shown[1], Math.max(2, Math.floor((right - left) / 90)), false);
      this.axis(found, found.map((each) => `${short(each)} s`), "");
      this.step.rows.forEach((row, index) => {
        const y = top + index * this.lane;
        element("text", { x: left - 8, y: y + wide / 2 + 4, "text-anchor": "end" }, this.svg, row.name);
        let at = 0;
        for (const part of row.parts) {
          this.bar(layer, row, part.name, at, part.seconds, y, wide, "part");
          let inner = at;
          for (const each of part.parts) {
            this.bar(layer, row, `${part.name}: ${each.name}`, inner, each.seconds, y + wide + 1, thin, "piece", each.name);
            inner += each.seconds;
          }
          at += part.seconds;
        }
        this.bar(layer, row, "idle", at, row.idle_s, y, wide, "idle").style.fill = `url(#${hatch})`;
      });
    }

    bar(layer, row, name, at, seconds, y, height, kind, word = name) {
      const x = this.x(at), width = Math.max(0, this.x(at + seconds) - x);
      const made = element("rect", {
        x, width, y, height, rx: 1.5, class: `${kind} c${row.colour}`,
        "data-role": row.name, "data-part": name, "data-seconds": seconds,
      }, layer);
      const label = `${row.name}, ${name}: ${short(seconds)} s, ${((100 * seconds) / this.step.step_s).toFixed(1)} %`;
      element("title", {}, made, label);
      const from = Math.max(x, this.box.left), room = Math.min(x + width, this.box.right) - from;
      const words = [`${word} ${short(Number(seconds.toPrecision(3)))} s`, word].find((each) => each.length * 7.3 + 10 < room);
      if (words) element("text", { x: from + 5, y: y + height / 2 + 4, class: `on-${kind}` }, layer, words);
      this.items.push({ start: at, end: at + seconds, top: y, bottom: y + height, label });
      return made;
    }

    point(value, event) {
      const frame = this.svg.getBoundingClientRect();
      const y = ((event.clientY - frame.top) / frame.height) * this.height;
      const near = (this.shown[1] - this.shown[0]) * (2 / (this.box.right - this.box.left));
      const found = this.items.filter((item) =>
        y >= item.top && y <= item.bottom && value >= item.start - near && value <= item.end + near);
      if (!found.length) { this.tip.hidden = true; return; }
      this.say(found.slice(0, 4).map((item) => [item.label]), this.x(value), y + 14);
    }
  }

  const SIGNS = { attempt: "A", stage: "S", scale: "N", checkpoint: "C", learner: "L", replica: "!" };
  const SAID = {
    attempt: "attempt", stage: "stage", scale: "number of replicas", checkpoint: "checkpoint", learner: "learner",
    replica: "death of a replica",
  };

  class TimePlot extends Plot {
    constructor(figure, times) {
      super(figure, `Timeline of ${times.lanes.length} replicas and ${times.marks.length} events; listed below as text`);
      this.times = times;
      this.whole = [0, times.end];
      const states = [...new Set(times.lanes.flatMap((lane) => lane.spans.map((span) => span.state)))];
      for (const state of states) {
        const key = html("span", "key", this.legend);
        const swatch = html("span", "swatch", key);
        swatch.style.background = `var(--${state})`;
        key.append(state);
      }
      for (const kind of [...new Set(times.marks.map((mark) => mark.kind))]) {
        html("span", "key", this.legend, `${SIGNS[kind]}: ${SAID[kind]}`);
      }
      this.draw();
    }

    draw() {
      const rows = [...new Set(this.times.marks.map((mark) => mark.kind))];
      const lane = 24;
      const longest = Math.max(6, ...this.times.lanes.map((each) => each.name.length), ...rows.map((kind) => kind.length));
      this.begin((rows.length + this.times.lanes.length) * lane + 58, Math.min(170, 14 + longest * 7));
      this.shown = this.view || this.whole;
      const { left, right, top, bottom } = this.box;
      const found = timeTicks(this.shown[0], this.shown[1], Math.max(2, Math.floor((right - left) / 90)));
      this.axis(found, found.map(clock), "");
      this.items = [];
      const clip = `clip-${this.times.id}`;
      const frame = element("clipPath", { id: clip }, this.svg);
      element("rect", { x: left, y: 0, width: right - left, height: bottom + 2 }, frame);
      const layer = element("g", { "clip-path": `url(#${clip})` }, this.svg);
      rows.forEach((kind, index) => {
        const y = top + index * lane + lane / 2;
        element("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, this.svg, kind === "replica" ? "deaths" : kind);
        let last = -Infinity;
        const marks = this.times.marks.filter((each) => each.kind === kind);
        marks.forEach((mark, position) => {
          const x = this.x(mark.at);
          const next = position + 1 < marks.length ? this.x(marks[position + 1].at) : right;
          const sign = element("g", { "data-mark": mark.kind, "data-at": mark.at }, layer);
          element("line", { x1: x, x2: x, y1: y - 9, y2: y + 9, stroke: "currentColor", "stroke-width": 2 }, sign);
          const fits = next - x > mark.label.length * 6.8 + 8;
          if (fits || (x - last > 13 && (next - x > 13 || position + 1 === marks.length))) {
            const back = x > right - 14;
            const place = { x: x + (back ? -4 : 4), y: y + 4, class: "value", "text-anchor": back ? "end" : "start" };
            element("text", place, sign, fits ? mark.label : SIGNS[kind]);
            last = x;
          }
          if (kind === "replica") sign.style.color = "var(--dead)";
          element("title", {}, sign, mark.label);
          this.items.push({ row: index, start: mark.at, end: mark.at, label: mark.label, at: mark.at });
        });
      });
      this.times.lanes.forEach((each, index) => {
        const row = rows.length + index;
        const y = top + row * lane;
        element("text", { x: left - 8, y: y + lane / 2 + 4, "text-anchor": "end" }, this.svg, each.name);
        for (const span of each.spans) {
          const thin = ["dead", "retired", "restarting"].includes(span.state);
          const made = element("rect", {
            x: this.x(span.start), width: Math.max(1.5, this.x(span.end) - this.x(span.start)),
            y: y + (thin ? 8 : 3), height: lane - (thin ? 16 : 6), rx: 1.5,
            style: `fill: var(--${span.state})`, "data-state": span.state, "data-lane": each.name,
          }, layer);
          element("title", {}, made, span.label);
          this.items.push({ row, start: span.start, end: span.end, label: span.label, at: span.start });
        }
      });
      this.lane = lane;
    }

    point(value, event) {
      const frame = this.svg.getBoundingClientRect();
      const y = ((event.clientY - frame.top) / frame.height) * this.height;
      const row = Math.floor((y - this.box.top) / this.lane);
      const near = ((this.shown[1] - this.shown[0]) * 5) / (this.box.right - this.box.left);
      const found = this.items.filter(
        (item) => item.row === row && value >= item.start - near && value <= item.end + near);
      const inside = found.filter((item) => value >= item.start && value <= item.end && item.end > item.start);
      const shown = inside.length ? inside.slice(-1) : found.slice(0, 4);
      if (!shown.length) { this.tip.hidden = true; return; }
      this.say(shown.map((item) => [`${clock(item.at)}: ${item.label}`]), this.x(value), Math.max(0, y + 14));
    }
  }

  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = data.charts[Number(figure.dataset.chart)];
    new (chart.bars.length ? BarPlot : LinePlot)(figure, chart);
  }
  for (const figure of document.querySelectorAll("figure[data-breakdown]")) {
    new FlamePlot(figure, data.breakdowns.find((each) => each.id === figure.dataset.breakdown));
  }
  for (const figure of document.querySelectorAll("figure[data-timeline]")) {
    new TimePlot(figure, data.timelines.find((each) => each.id === figure.dataset.timeline));
  }
})();
