// The browser's storage, which may be full, forbidden or damaged. No DOM.

const PREFIX = "jet-stories:";

/**
 * Opens one of the browser's storages. Keys get the page's prefix.
 * @param {"localStorage" | "sessionStorage"} area
 */
export function openStorage(area) {
  /** Raises what the browser raises if it forbids its storage. @returns {Storage} */
  const storage = () => globalThis[area];
  return {
    /** Reads a text; null if there is none or reading is forbidden. @param {string} key @returns {string | null} */
    read(key) {
      try {
        return storage().getItem(PREFIX + key);
      } catch {
        return null;
      }
    },
    /** Reads a JSON object; an empty one if it is missing or damaged. @param {string} key @returns {Record<string, any>} */
    readObject(key) {
      try {
        const found = JSON.parse(this.read(key) ?? "null");
        return found && typeof found === "object" && !Array.isArray(found) ? found : {};
      } catch {
        return {};
      }
    },
    /** Writes a text. Raises if the storage is full or forbidden. @param {string} key @param {string} text */
    write(key, text) {
      storage().setItem(PREFIX + key, text);
    },
    /** Writes a text, and returns whether the browser has it now. @param {string} key @param {string} text */
    tryWrite(key, text) {
      try {
        this.write(key, text);
        return true;
      } catch {
        return false;
      }
    },
    /** Removes an entry if there is one. @param {string} key */
    remove(key) {
      try {
        storage().removeItem(PREFIX + key);
      } catch {
        /* nothing can be there */
      }
    },
    /** The name of an entry in `storage` events. @param {string} key */
    keyOf: (key) => PREFIX + key,
  };
}

let secret = "";

/** A secret that only this browser and the server it is sent to know, the same at every visit. */
export function browserSecret() {
  const storage = openStorage("localStorage");
  secret ||= storage.read("secret") ?? "";
  if (!/^[0-9a-f]{32}$/.test(secret)) {
    const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
    secret = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    storage.tryWrite("secret", secret);
  }
  return secret;
}
