/**
 * Refuses a Node.js that is too old, before any file that it could not even parse is loaded.
 *
 * Nothing here is newer than Node.js 10, once it is compiled.
 */

const LEAST = 20;

if (Number.parseInt(process.versions.node, 10) < LEAST) {
  const message = `ryzanstein needs Node.js ${LEAST} or newer; this is Node.js ${process.versions.node}`;
  const error = new Error(message);
  Object.defineProperty(error, "code", { value: "PLATFORM_UNSUPPORTED" });
  // One line says all; a stack would only show how the file was loaded.
  error.stack = message;
  throw error;
}

export {};
