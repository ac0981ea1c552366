//! Names for files, from names and texts that may hold anything.

use sha2::{Digest, Sha256};

/// At most `length` bytes of a text that are safe in a file name everywhere: lower-case letters and digits of any
/// script, runs of anything else as one `-`.
pub fn slug(text: &str, length: usize) -> String {
    let mut out = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        let c = if c.is_alphanumeric() { c } else { '-' };
        if c == '-' && (out.is_empty() || out.ends_with('-')) {
            continue;
        }
        if out.len() + c.len_utf8() > length {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end_matches('-').len());
    if out.is_empty() { "x".into() } else { out }
}

/// The first `digits` (at most 64) hexadecimal digits of the SHA-256 of some parts; where one part ends matters.
pub fn short_hash(parts: &[&[u8]], digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_safe() {
        assert_eq!(slug("A photo of a cat.", 40), "a-photo-of-a-cat");
        assert_eq!(slug("../../etc/passwd", 40), "etc-passwd");
        assert_eq!(slug("größe: 3×4\n", 40), "größe-3-4");
        assert_eq!(slug("a b c d", 4), "a-b");
        assert_eq!(slug("鳥鳥鳥", 7), "鳥鳥");
        assert_eq!(slug("?!", 4), "x");
        assert_eq!(slug("", 4), "x");
    }

    #[test]
    fn hashes_tell_where_a_part_ends() {
        assert_eq!(short_hash(&[b"a", b"b"], 8).len(), 8);
        assert_ne!(short_hash(&[b"ab", b""], 16), short_hash(&[b"a", b"b"], 16));
    }
}
