//! Tables, a plot and JSON of a comparison.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Contender, Counts, Figures, Outcome};

/// Outcomes of all rounds, by contender, in the order of the run.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    rows: Vec<(Contender, Vec<Outcome>)>,
}

/// A figure of an outcome.
type Figure<'a> = &'a dyn Fn(&Outcome) -> f64;

/// A column of a table: its title, the decimals, and the figure.
type Column<'a> = (&'a str, usize, Figure<'a>);

impl Comparison {
    /// Adds a round's outcome.
    pub fn add(&mut self, contender: Contender, outcome: Outcome) {
        match self.rows.iter_mut().find(|(known, _)| *known == contender) {
            Some((_, outcomes)) => outcomes.push(outcome),
            None => self.rows.push((contender, vec![outcome])),
        }
    }

    /// What became of a contender's messages.
    #[must_use]
    pub fn counts(&self, contender: Contender) -> Counts {
        let outcomes = self.rows.iter().filter(|(known, _)| *known == contender).flat_map(|(_, outcomes)| outcomes);
        outcomes.map(|outcome| outcome.counts).sum()
    }

    /// The tables, in Markdown: medians over the rounds.
    #[must_use]
    pub fn tables(&self) -> String {
        let in_flight = self.in_flight();
        let mut text = String::new();
        let throughput: Vec<_> =
            (0..in_flight.len()).map(|at| move |one: &Outcome| closed(one, at).throughput).collect();
        let titles: Vec<String> = in_flight.iter().map(|count| format!("{count} in flight")).collect();
        let columns: Vec<Column<'_>> =
            titles.iter().zip(&throughput).map(|(title, figure)| (title.as_str(), 0, figure as Figure<'_>)).collect();
        self.table(&mut text, "messages per second", &columns);
        let middle = in_flight.len() / 2;
        let title = format!("µs of CPU per message, {} in flight", in_flight.get(middle).copied().unwrap_or_default());
        self.table(
            &mut text,
            &title,
            &[
                ("server", 0, &|one| closed(one, middle).cpu[0]),
                ("RabbitMQ", 0, &|one| closed(one, middle).cpu[1]),
                ("Redis", 0, &|one| closed(one, middle).cpu[2]),
            ],
        );
        self.table(
            &mut text,
            "latency in ms",
            &[
                ("p50 at the rate", 1, &|one| one.at_rate.latency[0]),
                ("p99", 1, &|one| one.at_rate.latency[1]),
                ("p99.9", 1, &|one| one.at_rate.latency[2]),
                ("p50 at half of the peak", 1, &|one| one.at_half.latency[0]),
                ("p99", 1, &|one| one.at_half.latency[1]),
                ("p99.9", 1, &|one| one.at_half.latency[2]),
            ],
        );
        self.table(
            &mut text,
            "others",
            &[
                ("connects per second", 0, &|one| one.connects),
                ("memory in MB", 0, &|one| one.memory),
                ("lost", 0, &|one| one.counts.lost as f64),
                ("repeated", 0, &|one| one.counts.repeated as f64),
                ("out of order", 0, &|one| one.counts.disordered as f64),
                ("refused", 0, &|one| one.counts.refused as f64),
            ],
        );
        text
    }

    fn in_flight(&self) -> Vec<usize> {
        let first = self.rows.iter().find_map(|(_, outcomes)| outcomes.first());
        first.map(|outcome| outcome.closed_loop.iter().map(|(count, _)| *count).collect()).unwrap_or_default()
    }

    fn table(&self, text: &mut String, title: &str, columns: &[Column<'_>]) {
        let heads: String = columns.iter().map(|(head, ..)| format!(" {head} |")).collect();
        // Writing to a string never fails.
        let _ = writeln!(text, "| {title} |{heads}\n|---|{}", "---:|".repeat(columns.len()));
        for (contender, outcomes) in &self.rows {
            let cells: String = columns
                .iter()
                .map(|(_, decimals, figure)| format!(" {:.*} |", decimals, median(outcomes, figure)))
                .collect();
            let _ = writeln!(text, "| {} |{cells}", contender.name());
        }
        text.push('\n');
    }

    /// All figures of all rounds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let figures = |figures: &Figures| {
            json!({
                "messages_per_second": figures.throughput,
                "cpu_us": { "server": figures.cpu[0], "rabbitmq": figures.cpu[1], "redis": figures.cpu[2] },
                "latency_ms": { "p50": figures.latency[0], "p99": figures.latency[1], "p999": figures.latency[2] },
            })
        };
        let outcome = |outcome: &Outcome| {
            let closed_loop = outcome.closed_loop.iter().map(|(count, one)| (count.to_string(), figures(one)));
            json!({
                "connects_per_second": outcome.connects,
                "memory_mb": outcome.memory,
                "in_flight": closed_loop.collect::<serde_json::Map<_, _>>(),
                "at_rate": figures(&outcome.at_rate),
                "at_half": figures(&outcome.at_half),
                "lost": outcome.counts.lost,
                "repeated": outcome.counts.repeated,
                "disordered": outcome.counts.disordered,
                "refused": outcome.counts.refused,
            })
        };
        let rows = self.rows.iter().map(|(contender, outcomes)| {
            let rounds: Vec<Value> = outcomes.iter().map(outcome).collect();
            json!({ "contender": contender.name(), "durable": contender.is_durable(), "rounds": rounds })
        });
        rows.collect()
    }

    /// Bars of throughput, by messages in flight, as SVG.
    #[must_use]
    pub fn plot(&self) -> String {
        const LEFT: usize = 210;
        const WIDTH: usize = 560;
        const BAR: usize = 14;
        let in_flight = self.in_flight();
        let group = in_flight.len() * BAR + 18;
        let height = self.rows.len() * group + 70;
        let value = |outcomes: &[Outcome], at: usize| median(outcomes, &|one: &Outcome| closed(one, at).throughput);
        let values = self.rows.iter().flat_map(|(_, outcomes)| (0..in_flight.len()).map(move |at| value(outcomes, at)));
        let most = values.fold(1.0, f64::max);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\" width=\"860\" height=\"{height}\" \
             role=\"img\">\n<title>Messages per second</title>\n<style>{STYLE}</style>\n\
             <text x=\"12\" y=\"26\" class=\"title\">Messages per second</text>\n"
        );
        for (at, count) in in_flight.iter().enumerate() {
            let x = LEFT + at * 150;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"40\" width=\"11\" height=\"11\" class=\"b{at}\"/><text x=\"{}\" y=\"50\" \
                 class=\"soft\">{count} in flight per user</text>",
                x + 16
            );
        }
        for (row, (contender, outcomes)) in self.rows.iter().enumerate() {
            let top = 66 + row * group;
            let kept = if contender.is_durable() { "" } else { " (keeps nothing)" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}{kept}</text>",
                LEFT - 10,
                top + in_flight.len() * BAR / 2 + 4,
                contender.name()
            );
            for at in 0..in_flight.len() {
                let value = value(outcomes, at);
                let (y, width) = (top + at * BAR, value / most * WIDTH as f64);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" class=\"b{at}\"/><text x=\"{:.1}\" \
                     y=\"{}\" class=\"soft\">{value:.0}</text>",
                    BAR - 2,
                    LEFT as f64 + width + 6.0,
                    y + BAR - 4
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Colours for light and dark screens.
const STYLE: &str = "\
svg{--back:#fff;--ink:#1c2430;--soft:#5b6675;--b0:#9cc3ec;--b1:#0b6bcb;--b2:#0a3f78;background:var(--back);\
font:12px system-ui,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}\
@media(prefers-color-scheme:dark){svg{--back:#12161c;--ink:#e6eaf0;--soft:#9aa7b6;--b0:#2f567f;--b1:#62b0ff;--b2:#bcdcff}}\
text{fill:var(--ink)}.soft{fill:var(--soft);font-variant-numeric:tabular-nums}.title{font-size:17px;font-weight:600}\
.b0{fill:var(--b0)}.b1{fill:var(--b1)}.b2{fill:var(--b2)}";

fn closed(outcome: &Outcome, at: usize) -> &Figures {
    outcome.closed_loop.get(at).map_or(&outcome.at_rate, |(_, figures)| figures)
}

fn median(outcomes: &[Outcome], figure: Figure<'_>) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(figure).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (lower, upper) = (values.get((values.len().max(1) - 1) / 2), values.get(values.len() / 2));
    lower.zip(upper).map(|(lower, upper)| f64::midpoint(*lower, *upper)).unwrap_or_default()
}

/// Replaces the part of a document between the two markers of that name.
///
/// # Errors
/// When the document lacks a marker.
pub fn replace_part(document: &str, name: &str, part: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let missing = |marker: &str| format!("the document has no line {marker:?}");
    let start = document.find(&begin).ok_or_else(|| missing(begin.trim_end()))? + begin.len();
    let stop = start + document[start..].find(&end).ok_or_else(|| missing(&end))?;
    Ok(format!("{}\n{}\n{}", &document[..start], part.trim(), &document[stop..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(throughput: f64) -> Outcome {
        let figures = Figures { throughput, cpu: [1.0, 2.0, 3.0], latency: [1.0, 2.0, 3.0] };
        Outcome {
            connects: 100.0,
            memory: 10.0,
            closed_loop: vec![(1, figures.clone()), (4, figures.clone())],
            at_rate: figures.clone(),
            at_half: figures,
            counts: Counts { received: 7, lost: 1, ..Counts::default() },
        }
    }

    #[test]
    fn tables_show_median_of_rounds() {
        let mut comparison = Comparison::default();
        [30.0, 10.0, 20.0].into_iter().for_each(|one| comparison.add(Contender::V1, outcome(one)));
        let tables = comparison.tables();
        assert!(
            tables.starts_with(
                "| messages per second | 1 in flight | 4 in flight |\n|---|---:|---:|\n| v1 | 20 | 20 |\n"
            ),
            "{tables}"
        );
        assert_eq!(comparison.counts(Contender::V1).received, 21);
        assert_eq!(comparison.to_json()[0]["rounds"][1]["at_rate"]["messages_per_second"], 10.0);
        assert_eq!(comparison.plot().matches("<rect").count(), 4);
    }

    #[test]
    fn part_between_markers_is_replaced() {
        let document = "a\n<!-- x -->\nold\n<!-- end of x -->\nb";
        let replaced = replace_part(document, "x", "new").unwrap();
        assert_eq!(replaced, "a\n<!-- x -->\n\nnew\n<!-- end of x -->\nb");
        assert_eq!(replace_part(&replaced, "x", "new"), Ok(replaced.clone()));
        assert!(replace_part("a", "x", "new").is_err_and(|error| error.contains("<!-- x -->")));
    }
}
