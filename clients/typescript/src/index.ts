/** Client of a funnelrank service. */

export { Client } from "./client.js";
export type { ClientOptions } from "./connection.js";
export * from "./errors.js";
export { Sender, type SenderOptions } from "./sender.js";
export type * from "./types.js";
