"use strict";
// The 3D view of a sequence: points and cameras, drawn by three.js, which lies compressed in the page and starts when
// the first view is opened. A view takes wheel, fingers and keys only while it has the focus: the page scrolls over it.
(function () {
  const HOME = { yaw: 0.35, pitch: 0.3, distance: 4.2 };
  const FOCAL = 1.9; // over the smaller side of a tile
  const NARROWEST = 220; // CSS pixels of a tile

  async function inflate(text) {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  let library = null;
  function three() {
    library = library || inflate(document.getElementById("library").textContent).then((code) => {
      const script = element("script", document.head);
      script.remove();
      script.textContent = new TextDecoder().decode(code); // the page's policy knows its hash, and no other's
      document.head.appendChild(script);
      return window.THREE;
    });
    return library;
  }

  function element(name, parent, text) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text; // never as HTML: names come from files
    parent.appendChild(made);
    return made;
  }

  async function decoded(data) {
    const colors = await Promise.all(data.colors.map(async (text) => new Uint8Array(text ? await inflate(text) : 0)));
    return Promise.all(data.clouds.map(async (cloud) => {
      const steps = new Int16Array(cloud.points ? await inflate(cloud.points) : 0), points = new Float32Array(steps.length);
      const count = steps.length / 3;
      for (let i = 0; i < count; i++) for (let k = 0; k < 3; k++) points[3 * i + k] = steps[k * count + i] / data.steps;
      return { ...cloud, points, colors: colors[cloud.colors] };
    }));
  }

  async function start(host, signal) {
    const data = JSON.parse(host.querySelector("script").textContent);
    const THREE = await three(), clouds = await decoded(data);
    if (signal.aborted) return;
    const room = element("div", host);
    signal.addEventListener("abort", () => room.remove());
    const bar = element("div", room), stage = element("div", room);
    bar.className = "bar";
    stage.className = "stage";
    const canvas = element("canvas", stage), names = element("div", stage), hint = element("p", stage);
    hint.className = "hint";
    let renderer;
    try {
      renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    } catch (error) {
      room.replaceChildren();
      element("p", room, "The 3D view needs WebGL, which this browser does not offer.").className = "none";
      return;
    }
    signal.addEventListener("abort", () => { renderer.dispose(); renderer.forceContextLoss(); });
    renderer.outputColorSpace = "srgb-linear"; // colours go through as they are
    renderer.setScissorTest(true);

    const colour = (name) => {
      const value = parseInt(getComputedStyle(host).getPropertyValue(name).trim().slice(1), 16);
      return new THREE.Color((value >> 16) / 255, ((value >> 8) & 255) / 255, (value & 255) / 255);
    };
    const state = { side: true, tinted: false, size: 3 };
    const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(30, 1, 0.01, 200);
    for (const cloud of clouds) {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(cloud.points, 3));
      geometry.setAttribute("color", new THREE.BufferAttribute(cloud.colors, 3, true));
      cloud.dots = new THREE.Points(geometry, new THREE.PointsMaterial({ sizeAttenuation: false, vertexColors: true }));
      const lines = [];
      for (const corners of cloud.cameras) {
        const at = (i) => corners.slice(3 * i, 3 * i + 3);
        for (let i = 1; i < 5; i++) lines.push(...at(0), ...at(i), ...at(i), ...at(i % 4 + 1));
      }
      const edges = new THREE.BufferGeometry();
      edges.setAttribute("position", new THREE.BufferAttribute(new Float32Array(lines), 3));
      cloud.frames = new THREE.LineSegments(edges, new THREE.LineBasicMaterial());
      for (const part of [cloud.dots, cloud.frames]) { part.frustumCulled = false; scene.add(part); }
    }
    function paint() {
      renderer.setClearColor(colour("--canvas"));
      for (const cloud of clouds) {
        cloud.frames.material.color.copy(colour(cloud.colour));
        cloud.dots.material.size = state.size;
        if (cloud.dots.material.vertexColors === state.tinted) cloud.dots.material.needsUpdate = true;
        cloud.dots.material.vertexColors = !state.tinted;
        cloud.dots.material.color.copy(state.tinted ? colour(cloud.colour) : new THREE.Color(1, 1, 1));
      }
      redraw();
    }

    function toggle(text, checked, change, variable, more) {
      const label = element("label", bar), box = element("input", label);
      box.type = "checkbox";
      box.checked = checked;
      box.addEventListener("change", () => { change(box.checked); paint(); });
      if (variable) element("i", label).style.background = "var(" + variable + ")";
      element("span", label, text);
      if (more) element("small", label, " " + more);
    }
    const count = (n) => n.toLocaleString("en");
    for (const cloud of clouds) {
      const all = cloud.count === cloud.total ? count(cloud.total) : count(cloud.count) + " of " + count(cloud.total);
      const lost = cloud.outside ? ", " + count(cloud.outside) + " too far away" : "";
      const size = cloud.total ? all + " points" + lost : "no points";
      toggle(cloud.name, cloud.shown, (on) => { cloud.shown = on; }, cloud.colour, size);
    }
    element("hr", bar);
    toggle("side by side", state.side, (on) => { state.side = on; });
    toggle("colour by candidate", state.tinted, (on) => { state.tinted = on; });
    toggle("cameras", true, (on) => { for (const cloud of clouds) cloud.hidden = !on; });
    toggle("large points", false, (on) => { state.size = on ? 5 : 3; });
    const reset = element("button", bar, "reset view");
    reset.type = "button";
    reset.addEventListener("click", goHome);

    camera.up.set(0, -1, 0); // y points down
    const controls = new THREE.OrbitControls(camera, canvas);
    signal.addEventListener("abort", () => controls.dispose());
    controls.minDistance = 0.1;
    controls.maxDistance = 40;
    controls.addEventListener("change", redraw);
    function goHome() {
      controls.target.set(0, 0, 0);
      const flat = HOME.distance * Math.cos(HOME.pitch);
      camera.position.set(-flat * Math.sin(HOME.yaw), -HOME.distance * Math.sin(HOME.pitch), -flat * Math.cos(HOME.yaw));
      controls.update();
      redraw();
    }

    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "points and cameras in 3D; with the focus, arrow keys turn, plus and minus zoom");
    function take(on) {
      controls.enabled = on;
      canvas.style.touchAction = on ? "none" : "auto";
      stage.classList.toggle("active", on);
      hint.textContent = on ? "drag turns, wheel or pinch zooms; Esc or a click outside lets go" : "click or tap to turn and zoom";
    }
    const grab = () => canvas.focus({ preventScroll: true });
    canvas.addEventListener("focus", () => take(true));
    canvas.addEventListener("blur", () => take(false));
    stage.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") grab(); }, true);
    canvas.addEventListener("click", grab); // a tap; a finger that scrolls does not click
    document.addEventListener("pointerdown", (event) => { if (!stage.contains(event.target)) canvas.blur(); }, { signal });
    const away = new IntersectionObserver((seen) => { if (!seen[seen.length - 1].isIntersecting) canvas.blur(); });
    away.observe(canvas);
    signal.addEventListener("abort", () => away.disconnect());
    take(false);

    function turn(across, up) {
      const away = camera.position.clone().sub(controls.target), axis = camera.up.clone().cross(away).normalize();
      camera.position.copy(away.applyAxisAngle(camera.up, across).applyAxisAngle(axis, up)).add(controls.target);
      controls.update();
    }
    function zoom(factor) {
      camera.position.sub(controls.target).multiplyScalar(factor).add(controls.target);
      controls.update();
    }
    const KEYS = {
      ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, -0.1),
      ArrowDown: () => turn(0, 0.1), "+": () => zoom(0.88), "-": () => zoom(1.14), Escape: () => canvas.blur(),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      KEYS[event.key]();
    });

    let pending = false;
    function redraw() {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => { pending = false; if (!signal.aborted) draw(); });
    }
    function draw() {
      const visible = clouds.filter((cloud) => cloud.shown);
      const tiles = state.side && visible.length ? visible.map((cloud) => [cloud]) : [visible];
      const width = Math.max(stage.clientWidth, 1), most = Math.max(Math.floor(width / NARROWEST), 1);
      const columns = Math.min(tiles.length > 3 ? Math.ceil(tiles.length / 2) : tiles.length, most);
      const rows = Math.ceil(tiles.length / columns), w = width / columns;
      const height = Math.round(Math.min(rows * Math.min(0.8 * w, 420), 0.75 * window.innerHeight)), h = height / rows;
      renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
      renderer.setSize(width, height);
      camera.aspect = w / h;
      camera.fov = 2 * Math.atan(0.5 / FOCAL / Math.min(camera.aspect, 1)) * 180 / Math.PI;
      camera.updateProjectionMatrix();
      names.replaceChildren();
      let drawn = 0;
      tiles.forEach((tile, i) => {
        const x = (i % columns) * w, row = Math.floor(i / columns);
        renderer.setViewport(x, height - (row + 1) * h, w, h);
        renderer.setScissor(x, height - (row + 1) * h, w, h);
        for (const cloud of clouds) {
          cloud.dots.visible = tile.includes(cloud);
          cloud.frames.visible = cloud.dots.visible && !cloud.hidden;
        }
        renderer.render(scene, camera);
        drawn += renderer.info.render.points;
        const box = element("div", names);
        Object.assign(box.style, { left: x + "px", top: row * h + "px", width: w + "px", height: h + "px" });
        for (const cloud of tile) element("b", box, cloud.name).style.color = "var(" + cloud.colour + ")";
      });
      canvas.dataset.drawn = String(drawn);
    }
    goHome();
    paint();
    const sizes = new ResizeObserver(redraw);
    sizes.observe(host);
    signal.addEventListener("abort", () => sizes.disconnect());
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint, { signal });
  }

  for (const host of document.querySelectorAll(".viewer")) {
    const folded = host.closest("details");
    let open = null; // browsers keep only so many contexts: a closed view gives its own back
    folded.addEventListener("toggle", () => {
      if (open) open.abort();
      open = folded.open ? new AbortController() : null;
      if (open) start(host, open.signal);
    });
  }
})();
