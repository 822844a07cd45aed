//! Ending a text at a stop string, which tokens may cut anywhere.

/// Passes text on up to the first stop string, holding back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct StopFinder {
    stops: Vec<String>,
    held: String,
}

impl StopFinder {
    /// For these strings; empty ones stop nothing.
    pub fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes more text; returns what may be shown of it, and whether a stop string was found behind that.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = found.min() {
            let mut shown = std::mem::take(&mut self.held);
            shown.truncate(at);
            return (shown, true);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max();
        let rest = self.held.split_off(self.held.len() - keep.unwrap_or(0));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let lengths = (1..=longest).rev();
    lengths
        .filter(|&length| stop.is_char_boundary(length))
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut all = String::new();
        for piece in pieces {
            let (text, stopped) = finder.push(piece);
            all += &text;
            if stopped {
                return (all, true);
            }
        }
        (all + &finder.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_wherever_pieces_end() {
        assert_eq!(
            shown(&["END"], &["a E", "N", "D b"]),
            ("a ".to_owned(), true)
        );
        assert_eq!(
            shown(&["END"], &["a E", "N", "d"]),
            ("a ENd".to_owned(), false)
        );
        assert_eq!(shown(&["EEND"], &["EE", "END"]), ("E".to_owned(), true));
        assert_eq!(shown(&["b", "ab"], &["xab"]), ("x".to_owned(), true));
        assert_eq!(
            shown(&["é!"], &["caf", "é", "?"]),
            ("café?".to_owned(), false)
        );
        assert_eq!(shown(&[""], &["a"]), ("a".to_owned(), false));
    }
}
