// Shows the OpenAPI document with Swagger UI. All of it comes from this server, whatever path that lies under.

/* global SwaggerUIBundle */
const key = document.getElementById("key");
const error = document.getElementById("error");

async function load() {
  error.textContent = "";
  try {
    const headers = key.value ? { authorization: `Bearer ${key.value}` } : {};
    const response = await fetch("../openapi.json", { headers });
    if (response.ok) show(await response.json());
    else error.textContent = response.status === 401 ? "This server wants an API key." : `openapi.json: ${response.status} ${response.statusText}`;
  } catch (failure) {
    error.textContent = `The server does not answer: ${failure.message}`;
  }
}

function show(spec) {
  // Requests go where this page came from, also behind a proxy that the server was not told of.
  spec.servers ??= [{ url: new URL("..", location.href).pathname.replace(/\/$/, "") || "/" }];
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#operations",
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelRendering: "model", // the fields, rather than an example;
    defaultModelExpandDepth: 4, // those of `parameters`, too
    validatorUrl: null,
    onComplete: () => { if (key.value) ui.preauthorizeApiKey("key", key.value); },
  });
}

key.addEventListener("change", load);
load();
