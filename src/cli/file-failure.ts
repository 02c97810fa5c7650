/** What went wrong with a file, in words. */

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  EISDIR: "it is a folder",
  ENOTDIR: "a part of its path is no folder",
  EACCES: "permission denied",
  EPERM: "permission denied",
  ENOSPC: "the disk is full",
  EROFS: "the disk is read-only",
};

/** The error of the file system as one line for people; its `code` stays. */
export function fileFailure(action: "read" | "write", file: string, error: unknown): Error {
  const { code } = error as NodeJS.ErrnoException;
  const reason = (code !== undefined && REASONS[code]) || (error as Error).message;
  return Object.assign(new Error(`cannot ${action} ${file}: ${reason}`, { cause: error }), { code });
}
