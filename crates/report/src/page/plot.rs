//! Pictures: marks in SVG, words in HTML.
//!
//! The SVG is stretched to whatever width the page has, and lines keep their width as it is. Labels are elements
//! of the page, placed by percentages, so that they keep the page's font and size on a telephone too. Colours are
//! classes of the style sheet, which knows light and dark.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use crate::page::axis::Axis;

/// Width of the SVG's coordinates; a tenth of a unit is finer than a pixel.
const WIDTH: f64 = 1000.0;

/// Height of the SVG's coordinates.
const HEIGHT: f64 = 400.0;

/// A picture over two axes.
pub struct Plot {
    x: Axis,
    y: Axis,
    label: String,
    /// Marks that are clipped to the plot area.
    marks: String,
    /// Dots, drawn whole even at the edge.
    dots: String,
    words: Vec<Markup>,
    legend: Vec<(String, String)>,
}

impl Plot {
    /// An empty picture; `label` says what it shows to those who cannot see it.
    pub fn new(x: Axis, y: Axis, label: impl Into<String>) -> Self {
        Self {
            x,
            y,
            label: label.into(),
            marks: String::new(),
            dots: String::new(),
            words: Vec::new(),
            legend: Vec::new(),
        }
    }

    /// Shades the time from one place to another, wide enough to be seen.
    pub fn shade(&mut self, class: &str, from: f64, to: f64) {
        const SEEN: f64 = 1.5;
        let (left, right) = (self.left(from).max(0.0), self.left(to).min(WIDTH));
        let width = (right - left).max(SEEN);
        let _ = write!(
            self.marks,
            r#"<rect class="shade {class}" x="{left:.1}" y="0" width="{width:.1}" height="{HEIGHT}"/>"#
        );
    }

    /// A line from bottom to top.
    pub fn vertical(&mut self, class: &str, x: f64) {
        let _ = write!(self.marks, r#"<path class="{class}" d="M{:.1} 0V{HEIGHT}"/>"#, self.left(x));
    }

    /// A line from left to right, with a word at its end.
    pub fn horizontal(&mut self, class: &str, y: f64, word: &str) {
        let _ = write!(self.marks, r#"<path class="{class}" d="M0 {:.1}H{WIDTH}"/>"#, self.top(y));
        let bottom = self.y.place(y) * 100.0;
        self.words.push(html! { span.note style=(format!("right:0;bottom:{bottom:.2}%")) { (word) } });
    }

    /// Short strokes at the foot of the picture.
    pub fn rug(&mut self, class: &str, places: impl Iterator<Item = f64>) {
        let mut path = String::new();
        for x in places {
            let _ = write!(path, "M{:.1} {HEIGHT}v-14", self.left(x));
        }
        self.path(class, &path);
    }

    /// The area between two values.
    pub fn band(&mut self, class: &str, points: &[(f64, f64, f64)]) {
        let there = points.iter().map(|(x, _, high)| (*x, *high));
        let back = points.iter().rev().map(|(x, low, _)| (*x, *low));
        let path = self.lines(there.chain(back));
        self.path(&format!("band {class}"), &path);
    }

    /// A line.
    pub fn line(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let path = self.lines(points);
        self.path(&format!("line {class}"), &path);
    }

    /// A line that stays at a value until the next.
    pub fn stairs(&mut self, class: &str, points: &[(f64, f64)]) {
        let corners = points.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]);
        self.line(class, corners.chain(points.last().copied()));
    }

    /// Dots: strokes without length, which stretching leaves round.
    pub fn dots(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        const ON_THE_EDGE: f64 = 1e-6;
        let is_inside = |place: f64| (-ON_THE_EDGE..=1.0 + ON_THE_EDGE).contains(&place);
        let mut path = String::new();
        for (x, y) in points.filter(|(x, y)| is_inside(self.x.place(*x)) && is_inside(self.y.place(*y))) {
            let _ = write!(path, "M{:.1} {:.1}h0", self.left(x), self.top(y));
        }
        if !path.is_empty() {
            let _ = write!(self.dots, r#"<path class="dots {class}" d="{path}"/>"#);
        }
    }

    /// A word above a point, to the side where there is room.
    pub fn word(&mut self, x: f64, y: f64, word: &str) {
        let percent = |place: f64| place.clamp(0.0, 1.0) * 100.0;
        let (left, bottom) = (percent(self.x.place(x)), percent(self.y.place(y)));
        let side =
            if left > 62.0 { format!("right:{:.2}%", 100.0 - left) } else { format!("left:{left:.2}%") };
        self.words.push(html! { span.beside style=(format!("{side};bottom:{bottom:.2}%")) { (word) } });
    }

    /// Adds an entry to the legend.
    pub fn legend(&mut self, class: &str, word: impl Into<String>) {
        self.legend.push((class.to_owned(), word.into()));
    }

    /// The picture as a figure.
    pub fn figure(&self) -> Markup {
        html! {
            figure {
                div.legend {
                    @for (class, word) in &self.legend {
                        span { i class=(format!("key {class}")) {} (word) }
                    }
                }
                div.ytitle { (self.y.title) }
                div.plot role="img" aria-label=(self.label) style=(format!("--digits:{}", self.label_length())) {
                    svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" aria-hidden="true" {
                        (PreEscaped(self.grid()))
                        // A nested svg clips its content.
                        svg width=(WIDTH) height=(HEIGHT) { (PreEscaped(&self.marks)) }
                        (PreEscaped(&self.dots))
                    }
                    @for (place, label) in &self.y.ticks {
                        span.ytick style=(format!("bottom:{:.2}%", place * 100.0)) { (label) }
                    }
                    @for (i, (place, label)) in self.x.ticks.iter().enumerate() {
                        span class=(if i % 2 == 1 { "xtick odd" } else { "xtick" })
                            style=(format!("left:{:.2}%", place * 100.0)) { (label) }
                    }
                    @for word in &self.words { (word) }
                }
                div.xtitle { (self.x.title) }
            }
        }
    }

    /// Characters in the longest label of the vertical axis; the margin is sized by it.
    fn label_length(&self) -> usize {
        self.y.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0)
    }

    fn grid(&self) -> String {
        let mut path = String::new();
        for (place, _) in &self.y.ticks {
            let _ = write!(path, "M0 {:.1}H{WIDTH}", HEIGHT * (1.0 - place));
        }
        format!(r#"<path class="grid" d="{path}"/>"#)
    }

    fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            let _ = write!(self.marks, r#"<path class="{class}" d="{path}"/>"#);
        }
    }

    fn lines(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points.filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.left(x), self.top(y));
        }
        path
    }

    fn left(&self, x: f64) -> f64 {
        self.x.place(x) * WIDTH
    }

    fn top(&self, y: f64) -> f64 {
        (1.0 - self.y.place(y)) * HEIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::axis::Unit;

    #[test]
    fn what_lies_past_the_edge_is_cut_and_labels_have_their_room() {
        let x = Axis::exactly("time", Unit::Time, 10.0);
        let mut plot = Plot::new(x, Axis::from_zero("power", Unit::Si("W"), 10_000.0), "a picture");
        plot.line("s1", [(0.0, 1.0), (12.0, 2.0)].into_iter());
        plot.dots("s1", [(10.0, 1.0), (12.0, 2.0)].into_iter());
        let html = plot.figure().into_string();
        let inner = html.rfind("<svg").unwrap();
        assert!(html[inner..].find("line s1") < html[inner..].find("</svg"), "the line is within: {html}");
        assert_eq!(html.matches("h0").count(), 1, "a dot outside is none");
        assert!(html.contains("--digits:2"), "{html}");
    }
}
