// A small client by the types of openapi-typescript. `tsc --strict` proves that they can be used,
// and that each line below a @ts-expect-error is an error.
import type { components, operations } from "./contract";

type Schemas = components["schemas"];
type Issued = operations["request_token"]["responses"][200];
type Responses = operations["request_token"]["responses"];

export const exchange: Schemas["TokenRequest"] = {
  grant_type: "authorization_code",
  client_id: "CIDX0000000002",
  username: "u-4711",
  code: "fake-authorization-code-1",
  redirect_uri: "https://books.example/callback",
};

export const revocation: Schemas["RevokeRequest"] = {
  token: "fake-refresh-token-1",
  token_type_hint: "refresh_token",
  client_id: "CIDX0000000002",
  username: "u-4711",
};

export const headers: operations["revoke_token"]["parameters"]["header"] = {
  "X-Correlation-ID": "6f1f9a52-1f6b-4b0e-9a53-6c9f4c0e2d11",
  "User-Agent": "acme-books/3.2",
  "X-CorAPI-Target-ID": "IIDX99999",
  "X-PSU-IP-Address": "AUTO",
  "X-PSU-User-Agent": "AUTO",
};

export function seconds(response: Issued): number | undefined {
  return response.content["application/json"].expires_in;
}

export function sender(source: Schemas["Source"]): string {
  switch (source) {
    case "PLATFORM":
      return "the platform";
    case "PROVIDER":
      return "the bank";
  }
}

export function code(error: Responses[502]["content"]["application/problem+json"]): string {
  return error.error ?? error.type ?? "unknown";
}

// @ts-expect-error: the username is missing
export const incomplete: Schemas["TokenRequest"] = { grant_type: "refresh_token", client_id: "C" };

// @ts-expect-error: no such grant type
export const password: Schemas["GrantType"] = "password";

// @ts-expect-error: no such status
export type Undocumented = Responses[503];

// @ts-expect-error: the revocation has no body
export type Revoked = operations["revoke_token"]["responses"][200]["content"]["application/json"];
