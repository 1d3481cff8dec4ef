//! The markers `{% generation %}` … `{% endgeneration %}` around what a model is to learn.
//!
//! They are a custom tag of transformers. Here they become a filter block before the template is parsed, which keeps
//! the tags' way with white space; the filter puts a character before and after the text that no text has.

use std::ops::Range;

/// Name of the filter.
pub(super) const FILTER: &str = "wattle_generation";

/// Stand around marked text while a template is rendered: characters that Unicode keeps from being any.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// The template with filter blocks in place of markers, and whether it has any.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    replace(source, &format!("filter {FILTER}"), "endfilter")
}

/// The template with blocks of no effect in place of markers.
pub(super) fn without_markers(source: &str) -> String {
    replace(source, "if true", "endif").0
}

/// The template with `open` and `close` in place of the markers' names, and whether it has any.
fn replace(source: &str, open: &str, close: &str) -> (String, bool) {
    let (mut out, mut rest, mut is_marked) = (String::with_capacity(source.len()), source, false);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + "%}".len());
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}");
        match name.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => {
                out.push_str(&tag.replacen("generation", open, 1));
                is_marked = true;
            }
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", close, 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, is_marked)
}

/// What the filter does.
pub(super) fn mark(text: String) -> String {
    let [open, close] = MARKS;
    format!("{open}{text}{close}")
}

/// The text without marks, and where it was marked, in bytes.
pub(super) fn unmarked(rendered: &str) -> (String, Vec<Range<usize>>) {
    let (mut text, mut ranges, mut open) = (String::with_capacity(rendered.len()), Vec::new(), None);
    for c in rendered.chars() {
        match MARKS.iter().position(|&mark| mark == c) {
            Some(0) => open = open.or(Some(text.len())),
            Some(_) => ranges.extend(open.take().map(|start| start..text.len())),
            None => text.push(c),
        }
    }
    ranges.retain(|range| !range.is_empty());
    (text, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_become_filters_with_their_way_with_white_space() {
        let (source, is_marked) =
            rewrite("{% if x %}{%- generation -%}a{%+endgeneration %}{% generation_x %}{{ '{' }}");
        let expected =
            "{% if x %}{%- filter wattle_generation -%}a{%+endfilter %}{% generation_x %}{{ '{' }}";
        assert_eq!((source.as_str(), is_marked), (expected, true));
        assert_eq!(
            rewrite("{{ a }} {% set generation = 1 %} {%"),
            ("{{ a }} {% set generation = 1 %} {%".into(), false)
        );
    }

    #[test]
    fn without_markers_a_template_says_the_same() {
        let source = "{% for x in 'ab' %}\n  {% generation %}\n {{ x }}{% endgeneration %}\n{% endfor %}";
        let render = |source: &str| super::super::environment::environment().render_str(source, ()).unwrap();
        assert_eq!(unmarked(&render(&rewrite(source).0)).0, render(&without_markers(source)));
    }

    #[test]
    fn marks_are_taken_out_and_tell_where_they_were() {
        let rendered = format!("a{}c{}", mark("é".to_owned()), mark(String::new()));
        assert_eq!(unmarked(&rendered), ("aéc".to_owned(), vec![1..3]));
    }
}
