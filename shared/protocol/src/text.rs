//! JSON text whose strings may contain lone surrogates.

use std::borrow::Cow;

/// Bytes of an escape such as `\ud83d`.
const ESCAPE: usize = 6;

/// Escaped replacement character, as long as the escape that it replaces.
const REPLACEMENT: &str = "\\ufffd";

/// Replaces each escaped lone surrogate by U+FFFD. Programs write them when they cut a string inside a character.
/// Browsers replace them, too, when they send such a string.
///
/// Source: RFC 8259, section 8.2; WHATWG Encoding, "scalar value string".
pub(crate) fn well_formed(json: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(escape) = json.get(at..).and_then(|rest| rest.find('\\')).map(|offset| at + offset) {
        at = match (surrogate_at(json, escape), surrogate_at(json, escape + ESCAPE)) {
            (Some(Half::High), Some(Half::Low)) => escape + 2 * ESCAPE,
            (Some(_), _) => {
                mended.push_str(json.get(copied..escape).unwrap_or_default());
                mended.push_str(REPLACEMENT);
                copied = escape + ESCAPE;
                copied
            }
            // The character after a backslash can't begin another escape.
            (None, _) => {
                escape + 1 + json.get(escape + 1..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8)
            }
        };
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(json.get(copied..).unwrap_or_default());
    Cow::Owned(mended)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// The surrogate escaped at that place, if any.
fn surrogate_at(json: &str, at: usize) -> Option<Half> {
    let digits = json.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogate_without_its_half_is_replaced_and_nothing_else() {
        let cases = [
            (r#""cut \ud83d""#, r#""cut \ufffd""#),
            (r#""\uDE00 \ud83d\ud83d\ude00 \ude00\ud83d""#, r#""\ufffd \ufffd\ud83d\ude00 \ufffd\ufffd""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
            (r#""\ud83dé""#, r#""\ufffdé""#),
        ];
        for (given, mended) in cases {
            assert_eq!(well_formed(given), mended);
        }
        // An escaped backslash begins no escape; invalid JSON stays as it is.
        for same in
            [r#""\\ud83d""#, r#""\u00e9 é \\""#, r#""\ud83d\ude00""#, r"\", r"\u", r"\ud8", r"\u+d83", r"é\é", ""]
        {
            assert!(matches!(well_formed(same), Cow::Borrowed(text) if text == same), "{same}");
        }
    }
}
