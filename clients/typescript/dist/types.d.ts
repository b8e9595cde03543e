/** Requests and answers of the API, with the names that it has in JSON. */
export type Value = string | number | boolean | null | readonly (string | number)[];
export type Features = Readonly<Record<string, Value>>;
/** An item to rank, with values that hold for this request alone. */
export interface Candidate {
    item_id: string;
    features?: Features;
    source?: string;
}
/** The fields of `POST /rank` beside user, candidates and deadline. */
export interface RankOptions {
    scene?: string;
    context?: Features;
    top_k?: number;
    fusion?: {
        weights: Readonly<Record<string, number>>;
    };
    timestamp?: number;
    explain?: boolean;
    request_id?: string;
    page?: string;
    user_features?: Features;
    behaviours?: readonly Features[];
}
export interface RankedItem {
    item_id: string;
    rank: number;
    /** null if nothing could be scored, and for items of a fallback order. */
    score: number | null;
    predictions: Record<string, number | null>;
    explain?: Record<string, Record<string, number | null>> | null;
    moved_by?: unknown;
}
/** A ranking, best item first. Fields of a newer service are there as well, without a type. */
export interface Ranking {
    request_id: string;
    /** null in a fallback order. */
    model: {
        name: string;
        version: string;
        role: string;
        line?: string;
    } | null;
    fusion: {
        profile?: string;
        revision?: number;
        experiment?: string;
        arm?: string;
    };
    /** Why the ranking is not all that it could be, e.g. `unknown_items:3`. */
    degraded: string[];
    coverage: {
        requested: number;
        scored: number;
    };
    ranking: RankedItem[];
    rules?: Record<string, unknown> | null;
    page?: string | null;
    /** The service gave no ranking: the items stand in the caller's own order. */
    fallback?: boolean;
}
/** A behaviour of a user. `timestamp` is in milliseconds since 1970; without it, now. */
export interface Event {
    user_id: string;
    item_id: string;
    action: string | number;
    timestamp?: number;
    scene?: string | number | null;
    event_id?: string;
    request_id?: string;
    position?: number;
    /** How much: seconds watched, a price. */
    value?: number;
}
/** Items of one ranking that came into view at one time. */
export interface Impression {
    request_id: string;
    items: readonly {
        item_id: string;
        position: number;
    }[];
    timestamp?: number;
    impression_id?: string;
    /** Needed where rules look at what a user has seen, and by counters of users. */
    user_id?: string;
    /** Needed by counters of scenes. */
    scene?: string;
}
export interface Written {
    accepted: number;
    new: number | null;
}
/** A document as the API has it, e.g. of `PUT /fusion`. */
export type Document = Record<string, unknown>;
export interface Rollback {
    to?: number;
    revision?: number;
    author?: string;
    reason?: string;
    line?: string;
}
