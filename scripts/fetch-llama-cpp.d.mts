/** The folder with `vocab` and `templates`, fetched if need be; throws when that is not possible. */
export function fetchLlamaCpp(): string;
