//! Personal data in texts: mail addresses, phone and card numbers, IP addresses.
//!
//! Patterns find candidates, and what can be checked is: a card number by its length, first digit and check digit
//! (ISO/IEC 7812-1, Luhn), an IP address by parsing it. Phone numbers are those with a country code (`+49 30 123456`)
//! and North American ones (`(202) 555-0143`); other national forms look like any other number and are not found.
//! Names, street addresses and identity numbers are not looked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A kind of personal data.
struct Kind {
    /// How it is counted.
    name: &'static str,
    /// What stands in its place.
    placeholder: &'static str,
    /// What a text has where there may be one, to pass over texts without.
    sign: fn(u8) -> bool,
    candidates: Regex,
    /// Bytes that never stand right beside such data.
    is_beside: fn(u8) -> bool,
    is_one: fn(&str) -> bool,
}

/// The kinds, in the order in which they are looked for: no part of one is taken for another.
static KINDS: LazyLock<[Kind; 5]> = LazyLock::new(|| {
    let kind = |name, placeholder, pattern: &str, sign, is_beside, is_one| {
        let candidates = Regex::new(pattern).expect("a test compiles every pattern");
        Kind { name, placeholder, sign, candidates, is_beside, is_one }
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_digit: fn(u8) -> bool = |byte| byte.is_ascii_digit();
    [
        kind(
            "mail",
            "<EMAIL>",
            r"[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}",
            |byte| byte == b'@',
            is_word,
            |_| true,
        ),
        kind(
            "ip",
            "<IP>",
            r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.[0-9]{1,3}){0,3}",
            |byte| byte == b':',
            |byte| byte.is_ascii_alphanumeric() || b"_:.".contains(&byte),
            is_ipv6,
        ),
        kind(
            "ip",
            "<IP>",
            r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}",
            is_digit,
            |byte| byte.is_ascii_alphanumeric() || byte == b'_',
            |text| text.parse::<Ipv4Addr>().is_ok(),
        ),
        kind("card", "<CARD>", r"[2-6](?:[ -]?[0-9]){12,18}", is_digit, is_word, is_card),
        kind(
            "phone",
            "<PHONE>",
            r"\+[1-9](?:[ .()/-]{0,2}[0-9]){6,14}|\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[-. ][0-9]{4}|[2-9][0-9]{2}[-.][2-9][0-9]{2}[-.][0-9]{4}",
            is_digit,
            is_word,
            |_| true,
        ),
    ]
});

/// `text` with placeholders in the place of personal data, and how much of each kind there was.
pub(crate) fn replaced(text: &str) -> (Cow<'_, str>, BTreeMap<&'static str, u64>) {
    let (mut text, mut counts) = (Cow::Borrowed(text), BTreeMap::new());
    for kind in KINDS.iter() {
        let found = kind.find(&text);
        if found.is_empty() {
            continue;
        }
        *counts.entry(kind.name).or_default() += found.len() as u64;
        let mut cleaned = String::with_capacity(text.len());
        let mut at = 0;
        for Range { start, end } in found {
            cleaned.push_str(&text[at..start]);
            cleaned.push_str(kind.placeholder);
            at = end;
        }
        cleaned.push_str(&text[at..]);
        text = cleaned.into();
    }
    (text, counts)
}

impl Kind {
    /// Where in `text` there is one.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let bytes = text.as_bytes();
        if !bytes.iter().any(|&byte| (self.sign)(byte)) {
            return Vec::new();
        }
        let is_beside =
            |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(|&byte| (self.is_beside)(byte));
        // A full stop that a number goes on behind, as in a version: 1.2.3.4.5.
        let goes_on =
            |end: usize| matches!(bytes.get(end..end + 2), Some([b'.', digit]) if digit.is_ascii_digit());
        let came_on = |start: usize| {
            start >= 2 && matches!(bytes[start - 2..start], [digit, b'.'] if digit.is_ascii_digit())
        };
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(candidate) = self.candidates.find_at(text, from) {
            let Range { start, end } = candidate.range();
            let is_alone = !is_beside(start.checked_sub(1)) && !is_beside(Some(end));
            if is_alone && !goes_on(end) && !came_on(start) && (self.is_one)(candidate.as_str()) {
                found.push(start..end);
            }
            from = end;
        }
        found
    }
}

/// Whether a candidate is an IPv6 address. One without a digit is more likely a path in a program, as `a::b`.
fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok() && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Whether digits, with single spaces or hyphens among them, are a card number by the check digit (Luhn): from the
/// right, every second digit is doubled, and the sum of all digits divides by ten.
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> =
        text.bytes().filter(u8::is_ascii_digit).map(|byte| u32::from(byte - b'0')).collect();
    let sum: u32 = (digits.iter().rev().enumerate())
        .map(|(i, &digit)| if i % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        replaced(text).0.into_owned()
    }

    #[test]
    fn each_kind_is_replaced_and_counted() {
        let text = "Mail jo.doe+x@mail.example.org, or call +49 (30) 1234-5678 or (202) 555-0143 / 202-555-0143.\n\
                    Card 4111 1111 1111 1111, 378282246310005; hosts 192.168.0.1, 10.0.0.255. 2001:db8::8a2e:370:7334 \
                    fe80::1 ::ffff:10.1.2.3";
        let (clean, counts) = replaced(text);
        assert_eq!(
            clean,
            "Mail <EMAIL>, or call <PHONE> or <PHONE> / <PHONE>.\nCard <CARD>, <CARD>; hosts <IP>, <IP>. <IP> <IP> <IP>"
        );
        assert_eq!(
            counts.into_iter().collect::<Vec<_>>(),
            [("card", 2), ("ip", 5), ("mail", 1), ("phone", 3)]
        );
    }

    #[test]
    fn what_only_looks_like_personal_data_stays() {
        for text in [
            "version 1.2.3.4.5 of 300.1.1.1, at 12:30:45 on 2026-11-28",
            "std::vector<int> a::b and fe::ed(x)",
            "4111 1111 1111 1112 has a wrong check digit, 0000 0000 0000 0000 is no card",
            "ISBN 978-3-16-148410-0, 1,000,000,000,000 and 3.14159265358979",
            "me @ home, a@b, @handle and user@localhost",
            "order 123456789012345678901234567890",
            "no digit at all, né à Nîmes",
        ] {
            assert_eq!(cleaned(text), text);
            assert!(matches!(replaced(text).0, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn what_was_replaced_is_not_found_again() {
        let text = "a@b.io 4111111111111111 1.1.1.1 +1 202 555 0143 ünïcode@example.com é1.1.1.1";
        let once = cleaned(text);
        assert_eq!(cleaned(&once), once);
        assert_eq!(once, "<EMAIL> <CARD> <IP> <PHONE> ünï<EMAIL> é<IP>");
    }
}
