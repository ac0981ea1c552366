//! What happens to a text before it is cut into words.

use std::borrow::Cow;

/// The two cleaning rules in use for CLIP. They agree on plain text and differ on HTML entities, on composed letters and on
/// the padding after the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cleaning {
    /// openai/CLIP and open_clip: HTML entities are resolved twice, whitespace runs become one space, lower case.
    /// Those programs first repair the text with Python's ftfy (mis-decoded letters, curly quotes, full-width letters);
    /// that repair is not part of this rule, so such letters are taken as they stand.
    OpenAi,
    /// transformers: Unicode NFC, whitespace runs become one space, lower case.
    HuggingFace,
}

/// Cleans `text` by [`Cleaning::OpenAi`].
pub(super) fn openai(text: &str) -> String {
    let text = unescape(text);
    let text = unescape(&text);
    let words: Vec<&str> = text.split(is_python_space).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// Whitespace as Python's `str.split` has it: Unicode's, and the four ASCII separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Resolves HTML character references as Python's `html.unescape` does.
///
/// Named references follow the HTML standard. Numeric ones differ from it in one point: Python drops code points that
/// are controls or not characters, where the standard keeps them.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        let after = &reference[1..];
        let length = match numeric(after) {
            Some((value, length)) => {
                out.extend(value);
                1 + length
            }
            None => {
                let length = 1 + name_length(after);
                out.push_str(&htmlize::unescape(&reference[..length]));
                length
            }
        };
        rest = &reference[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// How many bytes after an `&` may belong to a name: up to 32 characters and a semicolon.
fn name_length(after: &str) -> usize {
    let stop = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let name: usize = after.chars().take(32).take_while(|&c| !stop(c)).map(char::len_utf8).sum();
    if name > 0 && after[name..].starts_with(';') { name + 1 } else { name }
}

/// The numeric reference at the start of `after` (what follows the `&`): its character, if it stands for one, and its
/// length in bytes. None if there is no numeric reference.
fn numeric(after: &str) -> Option<(Option<char>, usize)> {
    let body = after.strip_prefix('#')?;
    let (digits, radix) = match body.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16),
        None => (body, 10),
    };
    let count = digits.bytes().take_while(|&b| char::from(b).is_digit(radix)).count();
    if count == 0 {
        return None;
    }
    // Saturating: whatever is above the last code point becomes the replacement character.
    let code = digits[..count]
        .chars()
        .filter_map(|c| c.to_digit(radix))
        .fold(0u32, |code, digit| code.saturating_mul(radix).saturating_add(digit));
    let mut length = after.len() - digits.len() + count;
    if after[length..].starts_with(';') {
        length += 1;
    }
    Some((character(code), length))
}

/// The character of a numeric reference: windows-1252 for the C1 controls, nothing for other controls and for
/// noncharacters.
fn character(code: u32) -> Option<char> {
    /// What 0x80 to 0x9f mean in windows-1252; the five unassigned ones stand for themselves.
    const WINDOWS_1252: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => WINDOWS_1252.get(code as usize - 0x80).copied(),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code <= 0x10_ffff && code & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescape_equals_python() {
        #[derive(serde::Deserialize)]
        struct Fixture {
            unescape: Vec<(String, String)>,
        }
        let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/tokenizer.json")).unwrap();
        assert!(fixture.unescape.len() > 60);
        for (text, expected) in &fixture.unescape {
            assert_eq!(unescape(text), expected.as_str(), "{text:?}");
        }
    }

    #[test]
    fn openai_cleaning() {
        assert_eq!(openai(" \u{a0}A&amp;amp;B\x1c\r\n&nbsp; C "), "a&b c");
        assert_eq!(openai("&amp;lt;"), "<");
        // Twice and no more.
        assert_eq!(openai("&amp;amp;lt;"), "&lt;");
    }
}
