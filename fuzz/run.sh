#!/bin/sh
# fuzz/run.sh [SECONDS=600] [TARGET…]: runs each fuzz target for so long, from seeds made of the repository's fixtures.
# Those of state are written by the target itself. Needs cargo-fuzz (cargo install cargo-fuzz). A crash ends it with the input's path, under fuzz/artifacts.
set -eu
cd "$(dirname "$0")/.."
seconds="${1:-600}"
[ $# -gt 0 ] && shift
targets="${*:-gguf safetensors tokenizer template state}"
export RUSTC_BOOTSTRAP=1

seed() { # TARGET FILE...
  mkdir -p "fuzz/corpus/$1"
  target="$1"; shift
  for file in "$@"; do
    [ -f "$file" ] && [ "$(wc -c < "$file")" -lt 400000 ] && cp "$file" "fuzz/corpus/$target/" || true
  done
}
seed gguf __test__/fixtures/reference/*.gguf crates/ryz-tokenizer/tests/fixtures/*.gguf
seed tokenizer crates/ryz-tokenizer/tests/fixtures/*.gguf crates/ryz-tokenizer/tests/fixtures/tokenizer-*.json
seed template fuzz/seeds/*.jinja
mkdir -p fuzz/corpus/safetensors
for folder in __test__/fixtures/reference/*-hf-*/; do
  [ -f "$folder/config.json" ] || continue
  { cat "$folder/config.json"; printf '\0'; cat "$folder"/*.safetensors; } > "fuzz/corpus/safetensors/$(basename "$folder")"
done

# The malformed files that lie beside a full checkout are good seeds, too.
set="../shared/badfiles"
if [ -d "$set" ]; then
  find "$set" -name '*.gguf' -size -64k -exec cp {} fuzz/corpus/gguf/ \;
  find "$set" -name '*.gguf' -size -64k -exec cp {} fuzz/corpus/tokenizer/ \;
  find "$set" -name '*.jinja' -size -16k -exec cp {} fuzz/corpus/template/ \;
  for file in "$set"/ok/*.safetensors "$set"/safetensors/*.safetensors; do
    { cat "$set/ok/hf_small/config.json"; printf '\0'; cat "$file"; } > "fuzz/corpus/safetensors/$(basename "$file")"
  done
fi

for target in $targets; do
  cargo fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=40 -max_len=400000 -print_final_stats=1
done
