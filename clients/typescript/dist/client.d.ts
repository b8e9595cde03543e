/** The client. It needs `fetch` and `crypto`, which browsers and Node 20 have. */
import { type ClientOptions } from "./connection.js";
import type { Candidate, Document, Event, Features, Impression, RankOptions, Ranking, Rollback, Written } from "./types.js";
export declare class Client {
    #private;
    constructor(url: string, options?: ClientOptions);
    /** Rank `candidates` for a user. Throws FunnelrankError: BadRequest, Unavailable, DeadlineExceeded, NoAnswer. */
    rank(userId: string, candidates: readonly (string | Candidate)[], options?: RankOptions & {
        timeoutMs?: number;
    }): Promise<Ranking>;
    /**
     * Rank, or give the order of `fallback` (by default that of the candidates) if there is no ranking in time. A wrong
     * call still throws: its repetition would hide the fault for ever.
     */
    rankOr(fallback: readonly string[] | null, userId: string, candidates: readonly (string | Candidate)[], options?: RankOptions & {
        timeoutMs?: number;
    }): Promise<Ranking>;
    /** Write behaviours, at most 1,000 in one call. Those without an id or a time get one, so that a repetition counts once. */
    sendEvents(events: readonly Event[]): Promise<Written>;
    /** Say what came into view. `new` is null in the answer if the service cannot tell. */
    sendImpressions(impressions: readonly Impression[]): Promise<Written>;
    /** Write features of users: user id to feature values. */
    putUserFeatures(users: Readonly<Record<string, Features>>): Promise<Document>;
    /** Write features of items: item id to feature values. */
    putItemFeatures(items: Readonly<Record<string, Features>>): Promise<Document>;
    getFusion(): Promise<Document>;
    putFusion(document: Document): Promise<Document>;
    rollBackFusion(to?: Rollback): Promise<Document>;
    /** Rank by a chosen `version` (`name/version`), `profile` and `rules`; it is neither counted nor logged. */
    previewRanking(request: Document): Promise<Document>;
    /** The effect of a fusion document on recent requests; nothing is changed. */
    previewFusion(document: Document): Promise<Document>;
    getRules(): Promise<Document>;
    putRules(document: Document): Promise<Document>;
    rollBackRules(to?: Rollback): Promise<Document>;
    /** The effect of a rules document on recent requests; nothing is changed. */
    previewRules(document: Document): Promise<Document>;
    /** Who may call the service, with the last use of every key; an operators' call. */
    getCallers(): Promise<Document>;
    getQuality(): Promise<Document>;
    getModels(): Promise<Document>;
    /** A published version: its manifest, its places in the rollout, what the gate measured. */
    getModel(name: string, version: string): Promise<Document>;
    putRollout(document: Document): Promise<Document>;
    rollBackModels(to?: Rollback): Promise<Document>;
    /** The rows and newest behaviours of a user, decoded. */
    getStoredUser(userId: string, behaviours?: number): Promise<Document>;
    /** The rows of an item, decoded. */
    getStoredItem(itemId: string): Promise<Document>;
    /** Traffic, latency, versions, store and alarms of one host, over the last seconds. */
    getStats(windowS?: number): Promise<Document>;
    /** Whether the process answers. */
    isLive(): Promise<boolean>;
    /** Whether it ranks. */
    isReady(): Promise<boolean>;
    /** All metrics in the text form of Prometheus. */
    getMetrics(): Promise<string>;
}
