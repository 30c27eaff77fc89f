"use strict";
// A small software renderer: points with a depth buffer, cameras as lines, on a 2D canvas. No library.
(function () {
  const BACKGROUND = [250, 250, 250];

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  function coordinates(text) { // little-endian int16, 32767 = 1
    const raw = bytes(text), view = new DataView(raw.buffer), out = new Float32Array(raw.length / 2);
    for (let i = 0; i < out.length; i++) out[i] = view.getInt16(2 * i, true) / 32767;
    return out;
  }

  function rgb(text) {
    const value = parseInt(text.slice(1), 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  }

  function element(name, parent, text) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text; // never as HTML: names come from files
    parent.appendChild(made);
    return made;
  }

  function start(host) {
    const data = JSON.parse(host.querySelector("script").textContent);
    const clouds = data.clouds.map((cloud) => ({
      ...cloud, points: coordinates(cloud.points), colors: bytes(cloud.colors), tint: rgb(cloud.colour),
    }));
    const state = { side: true, tinted: false, cameras: true, size: 3 };
    const home = { yaw: 0.35, pitch: -0.3, distance: 2.6, x: 0, y: 0 };
    const eye = { ...home };

    const bar = element("div", host);
    bar.className = "bar";
    function toggle(text, checked, change, colour) {
      const label = element("label", bar);
      const box = element("input", label);
      box.type = "checkbox";
      box.checked = checked;
      box.addEventListener("change", () => { change(box.checked); redraw(); });
      if (colour) element("i", label).style.background = colour;
      element("span", label, text);
    }
    for (const cloud of clouds) {
      const lost = cloud.outside ? ", " + cloud.outside + " outside the box" : "";
      const size = cloud.total ? cloud.count + " of " + cloud.total + " points" + lost : "no points";
      toggle(cloud.name + " (" + size + ")", cloud.shown, (on) => { cloud.shown = on; }, cloud.colour);
    }
    element("br", bar);
    toggle("side by side", state.side, (on) => { state.side = on; });
    toggle("colour by candidate", state.tinted, (on) => { state.tinted = on; });
    toggle("cameras", state.cameras, (on) => { state.cameras = on; });
    toggle("large points", false, (on) => { state.size = on ? 5 : 3; });
    const reset = element("button", bar, "reset view");
    reset.type = "button";
    reset.addEventListener("click", () => { Object.assign(eye, home); redraw(); });

    const canvas = element("canvas", host);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "points and cameras in 3D; arrow keys rotate, plus and minus zoom");
    const context = canvas.getContext("2d");
    let pending = false;
    function redraw() {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => { pending = false; draw(); });
    }

    function draw() {
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
      const height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      const visible = clouds.filter((cloud) => cloud.shown);
      const tiles = state.side ? visible.map((cloud) => [cloud]) : [visible];
      const columns = Math.max(tiles.length > 3 ? Math.ceil(tiles.length / 2) : tiles.length, 1);
      const rows = Math.ceil(tiles.length / columns) || 1;
      const image = context.createImageData(width, height), pixels = image.data;
      for (let i = 0; i < pixels.length; i += 4) {
        pixels[i] = BACKGROUND[0]; pixels[i + 1] = BACKGROUND[1]; pixels[i + 2] = BACKGROUND[2]; pixels[i + 3] = 255;
      }
      const nearest = new Float32Array(width * height).fill(Infinity);
      const boxes = tiles.map((_, i) => ({
        x: Math.floor((i % columns) * width / columns), y: Math.floor(Math.floor(i / columns) * height / rows),
        w: Math.floor(width / columns), h: Math.floor(height / rows),
      }));
      let drawn = 0;
      tiles.forEach((tile, i) => {
        for (const cloud of tile) drawn += splat(cloud, boxes[i], pixels, nearest, width, ratio);
      });
      context.putImageData(image, 0, 0);
      tiles.forEach((tile, i) => frame(tile, boxes[i], ratio));
      canvas.dataset.drawn = String(drawn);
    }

    function projection(box) {
      const cy = Math.cos(eye.yaw), sy = Math.sin(eye.yaw), cp = Math.cos(eye.pitch), sp = Math.sin(eye.pitch);
      const focal = 1.9 * Math.min(box.w, box.h);
      return (x, y, z, out) => {
        const a = cy * x + sy * z, b = -sy * x + cy * z;
        const v = cp * y - sp * b, depth = sp * y + cp * b + eye.distance;
        out[0] = box.x + box.w / 2 + focal * (a / depth + eye.x);
        out[1] = box.y + box.h / 2 + focal * (v / depth + eye.y);
        out[2] = depth;
      };
    }

    function splat(cloud, box, pixels, nearest, width, ratio) {
      const project = projection(box), at = [0, 0, 0], side = Math.max(Math.round(state.size * ratio * 0.75), 1);
      const points = cloud.points, colors = cloud.colors;
      let drawn = 0;
      for (let i = 0; i < points.length; i += 3) {
        project(points[i], points[i + 1], points[i + 2], at);
        if (at[2] < 0.05) continue;
        const left = Math.round(at[0]), top = Math.round(at[1]);
        if (left < box.x || top < box.y || left + side > box.x + box.w || top + side > box.y + box.h) continue;
        drawn++;
        const colour = state.tinted ? cloud.tint : [colors[i], colors[i + 1], colors[i + 2]];
        for (let y = top; y < top + side; y++) {
          for (let x = left; x < left + side; x++) {
            const place = y * width + x;
            if (at[2] >= nearest[place]) continue;
            nearest[place] = at[2];
            pixels[4 * place] = colour[0]; pixels[4 * place + 1] = colour[1]; pixels[4 * place + 2] = colour[2];
          }
        }
      }
      return drawn;
    }

    function frame(tile, box, ratio) {
      const project = projection(box), at = [0, 0, 0];
      context.save();
      context.beginPath();
      context.rect(box.x, box.y, box.w, box.h);
      context.clip();
      context.lineWidth = 1.4 * ratio;
      context.font = 12 * ratio + "px sans-serif";
      context.textBaseline = "top";
      tile.forEach((cloud, row) => {
        context.strokeStyle = context.fillStyle = cloud.colour;
        context.fillText(cloud.name, box.x + 8 * ratio, box.y + (8 + 16 * row) * ratio);
        if (!state.cameras) return;
        for (const camera of cloud.cameras) {
          const corners = [];
          for (let i = 0; i < 15; i += 3) {
            project(camera[i], camera[i + 1], camera[i + 2], at);
            corners.push(at.slice());
          }
          if (corners.some((corner) => corner[2] < 0.05)) continue;
          context.beginPath();
          for (let i = 1; i < 5; i++) {
            const next = corners[i % 4 + 1];
            context.moveTo(corners[0][0], corners[0][1]);
            context.lineTo(corners[i][0], corners[i][1]);
            context.lineTo(next[0], next[1]);
          }
          context.stroke();
        }
      });
      context.strokeStyle = "#ccc";
      context.lineWidth = ratio;
      context.strokeRect(box.x, box.y, box.w, box.h);
      context.restore();
    }

    function turn(dx, dy) {
      eye.yaw += dx;
      eye.pitch = Math.max(-1.55, Math.min(1.55, eye.pitch + dy));
      redraw();
    }
    function zoom(factor) {
      eye.distance = Math.max(0.15, Math.min(20, eye.distance * factor));
      redraw();
    }
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      const dx = event.clientX - held.x, dy = event.clientY - held.y;
      held = { x: event.clientX, y: event.clientY };
      if (event.shiftKey || event.buttons === 2) {
        eye.x += dx / canvas.clientHeight;
        eye.y += dy / canvas.clientHeight;
        redraw();
      } else {
        turn(-dx * 0.008, dy * 0.008);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => { Object.assign(eye, home); redraw(); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(Math.sign(event.deltaY) * 0.12));
    }, { passive: false });
    const KEYS = {
      ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0), ArrowUp: () => turn(0, -0.1),
      ArrowDown: () => turn(0, 0.1), "+": () => zoom(0.88), "-": () => zoom(1.14),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!KEYS[event.key]) return;
      event.preventDefault();
      KEYS[event.key]();
    });
    new ResizeObserver(redraw).observe(canvas);
    redraw();
  }

  document.querySelectorAll(".viewer").forEach(start);
})();
