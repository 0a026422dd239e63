// Calls of the API, and what is shown when they fail.

import { element } from "./dom.js";

/** The answer as JSON. Throws an `Error` with the problem's detail (RFC 9457). */
export async function call(path, options) {
  let response;
  try {
    response = await fetch(`api/v1/${path}`, options);
  } catch {
    throw new Error("The proxy does not answer.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const reason = body.detail ?? body.title ?? response.statusText;
    throw new Error(`${response.status}: ${reason}`);
  }
  return body;
}

/** Run the work of a form: one at a time, and its result or its error is shown in `output`, a live region. */
export function onSubmit(form, output, work) {
  let isBusy = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isBusy) return;
    isBusy = true;
    form.setAttribute("aria-busy", "true");
    try {
      output.replaceChildren(...(await work()));
    } catch (error) {
      output.replaceChildren(element("p", { class: "error" }, error.message));
    } finally {
      isBusy = false;
      form.removeAttribute("aria-busy");
    }
  });
}
