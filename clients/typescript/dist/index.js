/** Client of a funnelrank service. */
export { Client } from "./client.js";
export * from "./errors.js";
export { Sender } from "./sender.js";
