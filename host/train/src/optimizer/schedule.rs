//! How the learning rate changes from step to step.

/// The course after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScheduleKind {
    /// The learning rate stays.
    Constant,
    /// It falls to nothing in a line.
    Linear,
    /// It falls to nothing along half a cosine (arXiv 1608.03983).
    Cosine,
}

/// A schedule: what the learning rate is multiplied with in each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The course after the warm-up.
    pub kind: ScheduleKind,
    /// Steps in which the rate rises from nothing in a line.
    pub warm_up: u64,
    /// All steps, the warm-up's included.
    pub steps: u64,
}

impl Schedule {
    /// The factor of step `step`, counted from 0: that of the schedules of the same names in
    /// Hugging Face's `transformers`. After the last step it is that of the end.
    pub fn factor(&self, step: u64) -> f32 {
        if step < self.warm_up {
            return step as f32 / self.warm_up as f32;
        }
        let course = self.steps.saturating_sub(self.warm_up).max(1);
        let done = ((step - self.warm_up) as f64 / course as f64).min(1.0);
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => (1.0 - done) as f32,
            ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall() {
        let schedule = |kind| Schedule {
            kind,
            warm_up: 4,
            steps: 12,
        };
        for kind in [
            ScheduleKind::Constant,
            ScheduleKind::Linear,
            ScheduleKind::Cosine,
        ] {
            let rising = [0, 1, 2, 4].map(|step| schedule(kind).factor(step));
            assert_eq!(rising, [0.0, 0.25, 0.5, 1.0]);
        }
        assert_eq!(schedule(ScheduleKind::Constant).factor(100), 1.0);
        assert_eq!(schedule(ScheduleKind::Linear).factor(8), 0.5);
        assert_eq!(schedule(ScheduleKind::Linear).factor(100), 0.0);
        assert!((schedule(ScheduleKind::Cosine).factor(8) - 0.5).abs() < 1e-6);
        assert!(schedule(ScheduleKind::Cosine).factor(12).abs() < 1e-6);
        let none = Schedule {
            kind: ScheduleKind::Linear,
            warm_up: 0,
            steps: 0,
        };
        assert_eq!((none.factor(0), none.factor(1)), (1.0, 0.0));
    }
}
