// Serve this folder to this machine: `npm start`. The two Cross-Origin headers make the page
// isolated, and only then browsers let wasm have several threads.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL(".", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript",
  ".json": "application/json", ".wasm": "application/wasm",
};
const PORT = process.env.PORT ?? 8000;
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cache-Control": "no-cache",
};

function refuse(error) {
  console.error(`cannot serve on port ${PORT}: ${error.message}; PORT=N in front of the command takes another one`);
  process.exit(1);
}

const server = createServer(async (request, response) => {
  try {
    const { pathname } = new URL(request.url, "http://localhost");
    const path = join(FOLDER, normalize(decodeURIComponent(pathname)), pathname.endsWith("/") ? "index.html" : "");
    const found = await stat(path);
    if (!path.startsWith(FOLDER) || !found.isFile()) throw new Error("no file");
    const type = TYPES[extname(path)] ?? "application/octet-stream";
    response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": found.size });
    createReadStream(path).pipe(response);
  } catch {
    response.writeHead(404, HEADERS).end("not found");
  }
});
server.on("error", refuse);
try {
  server.listen(Number(PORT), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
} catch (error) {
  refuse(error);
}
