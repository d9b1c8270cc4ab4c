// An image to start from, and the mask that is painted over it.

import { ask, byId } from "./page.js";

let upload = null;
let wantsMask = false;
let painting = false;
let last = null;

const canvas = () => byId("mask");
const pen = () => canvas().getContext("2d");

export const image = {
  /** The number of the upload. */
  id() {
    if (!upload) throw new Error("Choose an image first, or drop one on the page.");
    return upload.id;
  },

  /** Sends a file; the answer has its number, and its settings if it holds some. */
  async take(file) {
    upload = await ask("/api/uploads", { method: "POST", body: file });
    byId("about-file").textContent = `${file.name || "image"}: ${upload.width} x ${upload.height} pixels`;
    return upload;
  },

  /** Shows the image as a network sees it. */
  fit(network, mask, width, height) {
    wantsMask = mask;
    byId("easel").hidden = !upload;
    canvas().hidden = byId("brushes").hidden = !mask;
    if (!upload) return;
    const address = `/api/uploads/${upload.id}/for/${network}`;
    const original = byId("original");
    if (original.getAttribute("src") === address) return;
    original.src = address;
    original.className = width < 256 ? "small" : "";
    canvas().width = width;
    canvas().height = height;
    byId("brush").max = Math.max(2, Math.round(width / 2));
    byId("brush").value = Math.max(1, Math.round(width / 8));
  },

  /** Sends the mask; returns its number. */
  async mask() {
    const { width, height } = canvas();
    const sheet = new OffscreenCanvas(width, height);
    const to = sheet.getContext("2d");
    to.fillStyle = "black";
    to.fillRect(0, 0, width, height);
    to.drawImage(canvas(), 0, 0);
    const file = await sheet.convertToBlob({ type: "image/png" });
    return (await ask("/api/uploads", { method: "POST", body: file })).id;
  },
};

function place(event) {
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * canvas().width, (event.clientY - box.top) / box.height * canvas().height];
}

function paint(event) {
  const [x, y] = place(event);
  const to = pen();
  to.strokeStyle = "white";
  to.lineCap = "round";
  to.lineWidth = Number(byId("brush").value);
  to.beginPath();
  to.moveTo(...(last ?? [x, y]));
  to.lineTo(x + 0.01, y);
  to.stroke();
  last = [x, y];
}

/** Listens to brushes and buttons. */
export function begin() {
  byId("original").addEventListener("error", () => { byId("about-file").textContent = "This image cannot be read; choose another."; });
  const mask = canvas();
  mask.addEventListener("pointerdown", (event) => {
    painting = wantsMask;
    last = null;
    mask.setPointerCapture(event.pointerId);
    if (painting) paint(event);
  });
  mask.addEventListener("pointermove", (event) => { if (painting) paint(event); });
  for (const end of ["pointerup", "pointercancel"]) mask.addEventListener(end, () => { painting = false; });
  for (const button of document.querySelectorAll("[data-mask]")) {
    button.addEventListener("click", () => {
      const { width, height } = mask;
      const to = pen();
      const parts = {
        centre: [width / 4, height / 4, width / 2, height / 2],
        left: [0, 0, width / 2, height],
        right: [width / 2, 0, width / 2, height],
      };
      to.fillStyle = "white";
      if (button.dataset.mask === "clear") to.clearRect(0, 0, width, height);
      else to.fillRect(...parts[button.dataset.mask].map(Math.round));
    });
  }
}
