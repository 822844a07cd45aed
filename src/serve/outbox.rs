//! The way from the engine to a connection, whose client may read slowly or not at all.
//!
//! The engine never waits for a client. What a slow one has not read is held as few large pieces in place of many small
//! ones, so that it costs little more than the text.

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::piece::{Event, Piece};

/// Pieces that wait to be read; more are joined.
const PIECES: usize = 64;

/// The engine's end.
#[derive(Debug)]
pub struct Outbox {
    events: Sender<Event>,
    /// What found no place yet.
    held: Piece,
}

/// Both ends for one answer.
pub fn outbox() -> (Outbox, Receiver<Event>) {
    let (events, received) = channel(PIECES);
    let held = Piece::default();
    (Outbox { events, held }, received)
}

impl Outbox {
    /// Whether nobody listens any more.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Sends a piece, now or with the next one; false if nobody listens any more.
    pub fn send(&mut self, piece: Piece) -> bool {
        self.held.append(piece);
        // The last place is the end's, which must come through and does not come twice.
        if self.held.finish.is_none() && self.events.capacity() <= 1 {
            return !self.is_closed();
        }
        let piece = std::mem::take(&mut self.held);
        self.events.try_send(Event::Piece(piece)).is_ok()
    }

    /// Ends the answer for this reason.
    pub fn fail(&mut self, reason: String) {
        // Whoever left in this moment needs no word.
        let _ = self.events.try_send(Event::Failed(reason));
    }
}

impl Piece {
    /// Joins the piece that follows.
    pub fn append(&mut self, next: Self) {
        if self.text.is_empty() && self.scored.is_empty() {
            *self = next;
            return;
        }
        self.text += &next.text;
        self.scored.extend(next.scored);
        self.finish = next.finish;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::piece::Finish;

    #[test]
    fn a_client_that_does_not_read_gets_it_all_in_few_pieces() {
        let (mut outbox, mut received) = outbox();
        let piece = |number: usize, finish: Option<Box<Finish>>| Piece {
            text: format!("{number} "),
            finish,
            ..Piece::default()
        };
        for number in 0..999 {
            assert!(outbox.send(piece(number, None)));
        }
        assert!(outbox.send(piece(999, Some(Box::default()))));
        let mut text = String::new();
        let mut pieces = 0;
        while let Ok(Event::Piece(piece)) = received.try_recv() {
            assert_eq!(piece.finish.is_some(), piece.text.ends_with("999 "));
            text += &piece.text;
            pieces += 1;
        }
        let all: String = (0..1000).map(|number| format!("{number} ")).collect();
        assert_eq!((text, pieces), (all, PIECES));
    }

    #[test]
    fn whoever_left_is_noticed() {
        let (mut outbox, received) = outbox();
        drop(received);
        assert!(outbox.is_closed());
        assert!(!outbox.send(Piece::default()));
        outbox.fail("anything".to_owned());
    }
}
