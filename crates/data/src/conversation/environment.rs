//! What chat templates expect of Jinja, as transformers provides it.

use jiff::Timestamp;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::generation;
use super::python_json::tojson;

/// Steps that a template may take: far beyond what a long conversation needs, so that one without an end ends.
const MOST_STEPS: u64 = 10_000_000;

/// Jinja with Python's methods, `raise_exception`, `strftime_now` (in UTC) and Python's `tojson`; a block's line end
/// and indentation are not part of the text.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("Jinja's own delimiters are distinct"));
    environment.set_fuel(Some(MOST_STEPS));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_filter(generation::FILTER, generation::mark);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

fn raise_exception(reason: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, reason))
}

fn strftime_now(format: String) -> Result<String, Error> {
    let now = Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC);
    strtime::format(&format, &now).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        environment().render_str(template, ()).map_err(|error| error.to_string())
    }

    #[test]
    fn pythons_methods_slices_and_namespaces_are_there() {
        for (template, text) in [
            ("{{ 'a</think>\\nb'.split('</think>')[-1].lstrip('\\n') }}", "b"),
            ("{% for x in [1, 2, 3][::-1] %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}", "32"),
            (
                "{% set n = namespace(i=0) %}{% for x in 'abc' %}{% set n.i = n.i + 1 %}{% endfor %}{{ n.i }}",
                "3",
            ),
            ("{% for k, v in {'z': 1, 'a': none}.items() %}{{ k }}={{ v }};{% endfor %}", "z=1;a=None;"),
            ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
            (
                "{{ strftime_now('%Y') | length }} {{ missing is defined }} {{ ['a', 'b'] | join(', ') }}",
                "4 False a, b",
            ),
            ("{{ ' x '.strip().upper() + ('y' if 'b' in 'abc' else 'n') }}", "Xy"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn exceptions_are_told_and_templates_without_an_end_are_ended() {
        assert!(
            rendered("{{ raise_exception('roles must alternate') }}")
                .unwrap_err()
                .contains("roles must alternate")
        );
        let endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}";
        assert!(rendered(endless).unwrap_err().contains("fuel"));
    }
}
