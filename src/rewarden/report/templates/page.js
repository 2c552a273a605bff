(() => {
  "use strict";
  const hosts = [...document.querySelectorAll("[data-figure]")];
  const drawn = [];
  const config = {displaylogo: false, displayModeBar: false, responsive: true, plotlyServerURL: "", showTips: false,
                  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
  const held = id => JSON.parse(document.getElementById(id).textContent);

  // Base64 of gzip -> bytes; the library and the names of points are packed so that the page stays one small file.
  const unpack = packed => {
    const text = atob(packed), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer().then(buffer => new Uint8Array(buffer));
  };
  const library = async () => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(held("plotly-packed")));
    document.head.append(script);  // runs at once, if its hash is the one that the policy lists
  };

  const fail = host => {
    host.classList.add("failed");
    host.removeAttribute("role");
    host.textContent = "This figure could not be drawn; its numbers are in the table below.";
  };

  // Thousands of marks: WebGL needs code made at run time, which the policy forbids, and as many SVG nodes would not pan.
  // They are painted on a canvas where plotly puts its own; a trace of mode "none" answers the pointer, an empty one the legend.
  const TURN = 2 * Math.PI;
  const split = trace => {
    const group = trace.legendgroup || `marks ${trace.name}`;
    return [{...trace, type: "scatter", mode: "none", legendgroup: group, showlegend: false, meta: "painted"},
            {type: "scatter", mode: "markers", x: [null], y: [null], name: trace.name, legendgroup: group, marker: trace.marker,
             showlegend: trace.showlegend, hoverinfo: "skip"}];
  };
  const paint = (host, canvas) => {
    const {xaxis, yaxis, width, height} = host._fullLayout, scale = window.devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.beginPath();
    pen.rect(xaxis._offset, yaxis._offset, xaxis._length, yaxis._length);
    pen.clip();
    const place = (axis, from, length) => value => from + (value - axis.range[0]) / (axis.range[1] - axis.range[0]) * length;
    const across = place(xaxis, xaxis._offset, xaxis._length), down = place(yaxis, yaxis._offset + yaxis._length, -yaxis._length);
    for (const trace of host._fullData) {
      if (trace.meta !== "painted" || trace.visible !== true) continue;
      const {color, size, symbol} = trace._input.marker, open = `${symbol}`.endsWith("-open");
      pen.fillStyle = pen.strokeStyle = color;
      for (let i = 0; i < trace.x.length; i++) {
        pen.beginPath();
        pen.arc(across(trace.x[i]), down(trace.y[i]), size / 2, 0, TURN);
        if (open) pen.stroke(); else pen.fill();
      }
    }
  };
  const draw = host => {
    const spec = held(host.dataset.figure), many = spec.data.some(trace => trace.type === "scattergl");
    const data = spec.data.flatMap(trace => trace.type === "scattergl" ? split(trace) : [trace]);
    host.classList.add("drawn");
    return Plotly.newPlot(host, data, spec.layout, config).then(() => {
      drawn.push(host);
      if (!many) return;
      const canvas = document.createElement("canvas"), again = () => paint(host, canvas);
      canvas.className = "painted";
      host.querySelectorAll(".main-svg")[1].before(canvas);
      for (const event of ["plotly_afterplot", "plotly_relayouting"]) host.on(event, again);
      again();
    });
  };
  const next = () => {
    const host = hosts.shift();
    if (!host) { document.documentElement.dataset.ready = "yes"; return; }
    Promise.resolve().then(() => draw(host)).catch(() => fail(host)).then(() => setTimeout(next, 0));
  };

  // Finding a point by name: packed names and places are read when somebody first types.
  const SHOWN = 12;
  const fold = text => text.normalize("NFC").replace(/^[␣\s]+|[␣\s]+$/gu, "").toLowerCase();
  const pointsOf = async id => {
    const spec = held(id), bytes = await unpack(spec.packed), n = spec.count;
    const place = (axis, row) => {
      const [low, high] = spec.range[axis];
      return low + (bytes[2 * axis * n + row] + 256 * bytes[(2 * axis + 1) * n + row]) / spec.levels * (high - low);
    };
    const names = n ? new TextDecoder().decode(bytes.subarray(4 * n)).split("\n") : [];
    const digits = spec.range.map(([low, high]) => Math.min(6, Math.max(0, Math.ceil(-Math.log10((high - low) / 1000 || 1)))));
    return {...spec, names, folded: names.map(fold), place, digits};
  };
  const matches = (points, query) => {
    const found = [], wanted = fold(query) || query.replace(/ /g, "␣");
    points.folded.forEach((name, row) => {
      const at = (name || points.names[row]).indexOf(wanted);
      if (at >= 0) found.push([name === wanted ? 0 : at === 0 ? 1 : 2, name.length, row]);
    });
    return found.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]).map(item => item[2]);
  };
  const number = (value, digits) => value.toFixed(digits).replace("-", "−");
  const markup = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const mark = (host, points, rows) => {
    if (!host.data) return;
    const trace = host.data.findIndex(one => one.meta === "found");
    const [x, y] = [0, 1].map(axis => rows.map(row => points.place(axis, row)));
    Plotly.restyle(host, {x: [x], y: [y], text: [rows.map(row => markup(points.names[row]))]}, [trace]);
    const inside = (values, axis) => values.every(value => value >= Math.min(...axis.range) && value <= Math.max(...axis.range));
    if (!inside(x, host._fullLayout.xaxis) || !inside(y, host._fullLayout.yaxis)) {
      const first = held(host.dataset.figure).layout;
      const back = axis => first[axis].range ? {[`${axis}.range`]: first[axis].range} : {[`${axis}.autorange`]: true};
      Plotly.relayout(host, {...back("xaxis"), ...back("yaxis")});
    }
  };
  const told = (answer, points, query, rows) => {
    const line = document.createElement("p");
    line.textContent = !query ? "" : !rows.length ? `No ${points.noun} holds “${query}”.`
      : rows.length > SHOWN ? `${rows.length} ${points.noun}s hold “${query}”; the closest ${SHOWN} are marked:`
      : `${rows.length} ${points.noun}${rows.length > 1 ? "s hold" : " holds"} “${query}”:`;
    const list = document.createElement("ul");
    for (const row of rows.slice(0, SHOWN)) {
      const item = document.createElement("li"), name = document.createElement("b");
      name.textContent = points.names[row];
      item.append(name, ": " + [0, 1].map(axis => `${points.axes[axis]} ${number(points.place(axis, row), points.digits[axis])}`)
        .join(", "));
      list.append(item);
    }
    answer.replaceChildren(...(query ? [line] : []), ...(rows.length ? [list] : []));
  };
  for (const box of document.querySelectorAll("[data-points]")) {
    const host = document.getElementById(box.dataset.host), answer = document.getElementById(box.dataset.answer);
    let points = null;
    box.addEventListener("input", async () => {
      try {
        points = points || pointsOf(box.dataset.points);
        const known = await points, query = box.value, rows = query ? matches(known, query) : [];
        told(answer, known, query, rows);
        mark(host, known, rows.slice(0, SHOWN));
      } catch (error) {
        answer.textContent = "The search does not work in this browser; the values are in the run folder.";
      }
    });
  }

  library().catch(() => null).then(next);
  addEventListener("beforeprint", () => drawn.forEach(host => Plotly.relayout(host, {width: 660, autosize: false})));
  addEventListener("afterprint", () => drawn.forEach(host => Plotly.relayout(host, {width: null, autosize: true})));
})();
