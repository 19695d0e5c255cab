//! Labels that the encoder's adapter was trained to tell apart: the adapter's own layer judges, and the
//! examples are not looked at.

/// Which class of the adapter each label is.
#[derive(Debug, PartialEq)]
pub struct Taught {
    /// For each label its class.
    columns: Vec<usize>,
    /// How many classes there are.
    classes: usize,
}

impl Taught {
    /// The classes of these labels, if each label is one: other classes are then never given. Classes that
    /// nobody has named are called by their numbers, which say nothing of labels.
    pub fn of<'a>(labels: impl Iterator<Item = &'a str>, classes: &[String]) -> Option<Self> {
        let mut numbered = (0..).zip(classes);
        if numbered.all(|(number, class): (usize, _)| *class == number.to_string()) {
            return None;
        }
        let class = |label: &str| classes.iter().position(|class| class == label);
        Some(Taught {
            columns: labels.map(class).collect::<Option<_>>()?,
            classes: classes.len(),
        })
    }

    /// The label and the score of each text, by the logarithms of the probabilities of its classes:
    /// [texts, classes], row by row. The score is the label's probability among all labels.
    pub fn classify(&self, logarithms: &[f32]) -> Vec<(u32, f32)> {
        let rows = logarithms.chunks_exact(self.classes.max(1));
        rows.map(|row| {
            let of_label = |column: &usize| row[*column];
            let mut best = (0, f32::NEG_INFINITY);
            for (label, logarithm) in self.columns.iter().map(of_label).enumerate() {
                if logarithm > best.1 {
                    best = (label as u32, logarithm);
                }
            }
            let (label, most) = best;
            let all = self.columns.iter().map(of_label);
            let sum: f32 = all.map(|logarithm| (logarithm - most).exp()).sum();
            (label, 1.0 / sum)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_are_classes_are_judged_by_them() {
        let classes = ["billing", "login", "shipping"].map(str::to_owned);
        assert_eq!(Taught::of(["login", "praise"].into_iter(), &classes), None);
        let numbers = ["0", "1", "2"].map(str::to_owned);
        assert_eq!(Taught::of(["1", "2"].into_iter(), &numbers), None);
        let taught = Taught::of(["shipping", "billing"].into_iter(), &classes).unwrap();
        let rows = [0.3_f32, 0.6, 0.1, 0.1, 0.5, 0.4].map(f32::ln);
        let judged = taught.classify(&rows);
        assert_eq!(
            judged.iter().map(|(label, _)| *label).collect::<Vec<_>>(),
            [1, 0]
        );
        assert!((judged[0].1 - 0.75).abs() < 1e-6, "{judged:?}");
        assert!((judged[1].1 - 0.8).abs() < 1e-6, "{judged:?}");
    }
}
