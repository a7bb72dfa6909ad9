use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets a message through at most once in a while, and says how many were held back.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// At most one in `every`.
    pub fn new(every: Duration) -> Seldom {
        Seldom { every, state: Mutex::new((None, 0)) }
    }

    /// `Some(held back since the last one)` when it is time to speak.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held) = *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            *state = (last, held + 1);
            return None;
        }
        *state = (Some(now), 0);
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_seldom_and_says_how_often_it_did_not() {
        let (seldom, start) = (Seldom::new(Duration::from_secs(60)), Instant::now());
        assert_eq!(seldom.due(start), Some(0));
        assert_eq!(seldom.due(start + Duration::from_secs(1)), None);
        assert_eq!(seldom.due(start + Duration::from_secs(59)), None);
        assert_eq!(seldom.due(start + Duration::from_secs(60)), Some(2));
    }
}
