//! Where each parameter lies in a flat buffer.

use std::ops::Range;

use wattle_ops::adamw::cpu::ParameterRange;

use crate::parameter::Parameter;

/// The place of every parameter.
///
/// Those that weight decay pulls at (two dimensions or more) come first, then the others, each part in the
/// model's order. So an update is two runs through memory, and the vectors of a block are neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    n_decaying: usize,
    len: usize,
}

/// One parameter's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Where it lies.
    pub range: Range<usize>,
}

impl Layout {
    /// The places of `parameters`.
    pub fn new(parameters: &[Parameter]) -> Self {
        let n_decaying = parameters.iter().filter(|p| decays(p)).map(|p| p.var.elem_count()).sum();
        let (mut next_decaying, mut next_other) = (0, n_decaying);
        let place = |parameter: &Parameter| {
            let next = if decays(parameter) { &mut next_decaying } else { &mut next_other };
            let start = *next;
            *next += parameter.var.elem_count();
            Entry { name: parameter.name.clone(), dims: parameter.var.dims().to_vec(), range: start..*next }
        };
        let entries = parameters.iter().map(place).collect();
        Self { entries, n_decaying, len: next_other }
    }

    /// All parameters, in the model's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the parameter `name` lies, if there is one.
    pub fn find(&self, name: &str) -> Option<Range<usize>> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.range.clone())
    }

    /// Numbers of all parameters together.
    #[expect(clippy::len_without_is_empty, reason = "a model without parameters is none")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What decays, and what does not.
    pub fn ranges(&self) -> [ParameterRange; 2] {
        [
            ParameterRange { range: 0..self.n_decaying, decays: true },
            ParameterRange { range: self.n_decaying..self.len, decays: false },
        ]
    }
}

/// Matrices decay; biases and norms do not.
fn decays(parameter: &Parameter) -> bool {
    parameter.var.rank() >= 2
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::parameter::ParameterBuilder;

    #[test]
    fn matrices_come_first_and_all_have_a_place_of_their_own() {
        let device = Device::Cpu;
        let mut builder = ParameterBuilder::new(1, &device);
        for (name, dims) in [("a", &[2, 3][..]), ("b", &[3]), ("c", &[3, 1, 2]), ("d", &[5])] {
            builder.zeros(name, dims).unwrap();
        }
        let layout = Layout::new(&builder.finish());
        let ranges: Vec<_> = layout.entries().iter().map(|entry| entry.range.clone()).collect();
        assert_eq!(ranges, [0..6, 12..15, 6..12, 15..20]);
        assert_eq!((layout.len(), layout.find("d"), layout.find("e")), (20, Some(15..20), None));
        assert_eq!(layout.ranges().map(|r| (r.range, r.decays)), [(0..12, true), (12..20, false)]);
    }
}
