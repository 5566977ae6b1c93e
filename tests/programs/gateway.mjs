// An integration in JavaScript, on fetch: the whole work of v1, at the address it is given.
const api = process.argv[2], headers = { "x-key": "rb_test_sandbox" };
const send = async (method, path, body) => {
  const json = typeof body === "string";
  const answer = await fetch(api + path, {
    method, body, headers: json ? { ...headers, "content-type": "application/json" } : headers,
  });
  const type = answer.headers.get("content-type"), text = await answer.text();
  const found = type?.includes("json") ? JSON.parse(text) : text;
  if (found?.api_key) { headers["x-key"] = found.api_key; found.api_key = "a new one"; }
  console.log(JSON.stringify([path, answer.status, answer.url.replace(api, ""), found]));
  return found;
};
const form = new FormData();
form.append("requested_file", new Blob(["email\nann@acme.com\n"]), "emails.csv");
await send("GET", "/v1/credits");
await send("POST", "/v1/process-email?metadata=true", JSON.stringify({ email: "ann@acme.com" }));
const { process_id } = await send("POST", "/v1/batch-upload", form);
const job = JSON.stringify({ process_id });
await send("POST", "/v1/batch-process-email-status", job);
await send("GET", "/v1/queued-process");
await send("POST", "/v1/cancel-process", job);
await send("POST", "/v1/batch-download", JSON.stringify({ process_id: 7 }));
await send("POST", "/v1/process-email", JSON.stringify({ email: "nonsense" }));
await send("GET", "/v1/new-api-key");
await send("GET", "/v1/credits");
