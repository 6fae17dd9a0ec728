// A picture as a file: an SVG that needs no style sheet, or the same as a PNG of twice its size. Runs before the scripts of
// what is drawn (chart_save.js, scatter.js), whose scope it shares.

/** Hand `blob` to the browser as the file `name`. */
function handFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 30000);
}

const svgBlob = (svg) => new Blob([svg], { type: "image/svg+xml;charset=utf-8" });

async function pngBlob(svg) {
  const image = new Image(), address = URL.createObjectURL(svgBlob(svg)), canvas = document.createElement("canvas");
  image.src = address;
  await image.decode();
  canvas.width = image.naturalWidth * 2;
  canvas.height = image.naturalHeight * 2;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(address);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Save the text of an SVG as `name`.`kind`, "svg" or "png". */
async function savePicture(svg, name, kind) {
  handFile(kind === "png" ? await pngBlob(svg) : svgBlob(svg), `${name}.${kind}`);
}
