//! An adapter's family, drawn as a tree: its base, its ancestors, itself, and those after it.

use crate::requests::{FamilyLine, FamilyTree};

/// Prints it.
pub fn print(family: &FamilyTree) {
    for line in lines(family) {
        tell!("  {line}");
    }
}

fn lines(family: &FamilyTree) -> Vec<String> {
    let mut lines = vec![format!("family    {}", family.base)];
    let mut depth = 0;
    let branch = |depth: usize| format!("{:width$}└─ ", "", width = 10 + 3 * depth);
    if let Some(missing) = &family.missing {
        lines.push(format!("{}{missing}, which is not here", branch(depth)));
        depth += 1;
    }
    for (place, member) in family.members.iter().enumerate() {
        let own = if place + 1 == family.members.len() {
            "  ← this one"
        } else {
            ""
        };
        lines.push(format!("{}{}{own}", branch(depth), told(member)));
        depth += 1;
    }
    for child in &family.children {
        lines.push(format!("{}{child}", branch(depth)));
    }
    let mut name = "shares";
    for share in &family.shares {
        let percent = share.percent;
        lines.push(format!(
            "{name:<9} {percent} % of every use to {}",
            share.account
        ));
        name = "";
    }
    if let Some(reason) = &family.refused {
        lines.push(format!("refused   {reason}"));
    }
    lines
}

/// An adapter with what it was made of, as far as it says.
fn told(member: &FamilyLine) -> String {
    let mut text = member.reference.clone();
    if member.percent > 0.0 {
        text.push_str(&format!(", asks for {} %", member.percent));
    }
    if let (Some(steps), Some(data), Some(recipe)) = (member.steps, &member.data, &member.recipe) {
        let short = |digest: &String| digest.chars().take(10).collect::<String>();
        let (data, recipe) = (short(data), short(recipe));
        text.push_str(&format!(", {steps} steps on {data} by {recipe}"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::requests::ShareLine;

    #[test]
    fn a_family_is_drawn_from_its_base_to_its_youngest() {
        let member = |name: &str, percent| FamilyLine {
            reference: name.to_owned(),
            digest: "d".repeat(64),
            percent,
            data: Some("a".repeat(64)),
            recipe: Some("b".repeat(64)),
            steps: Some(7),
        };
        let family = FamilyTree {
            base: "mini".to_owned(),
            members: vec![member("shop", 5.0), member("stall", 0.0)],
            children: vec!["cart".to_owned()],
            shares: vec![ShareLine {
                account: "alice".to_owned(),
                percent: 5.0,
            }],
            ..FamilyTree::default()
        };
        assert_eq!(
            lines(&family),
            [
                "family    mini",
                "          └─ shop, asks for 5 %, 7 steps on aaaaaaaaaa by bbbbbbbbbb",
                "             └─ stall, 7 steps on aaaaaaaaaa by bbbbbbbbbb  ← this one",
                "                └─ cart",
                "shares    5 % of every use to alice",
            ]
        );
        let orphan = FamilyTree {
            missing: Some("nobody".to_owned()),
            refused: Some("because".to_owned()),
            ..FamilyTree::default()
        };
        let drawn = lines(&orphan).join("\n");
        assert!(drawn.contains("nobody, which is not here") && drawn.ends_with("because"));
    }
}
