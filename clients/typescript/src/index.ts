/** Client of a funnelrank service. */

export { Client, type ClientOptions } from "./client.js";
export * from "./errors.js";
export { Sender, type SenderOptions } from "./sender.js";
export type * from "./types.js";
