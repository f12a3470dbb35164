//! Plots a run: latency over time, faults, messages per second, and a table.

use std::fmt::Write;

use super::{
    oracle::{Latency, Outcome},
    timeline::Point,
};

/// Colours for light and dark screens.
const STYLE: &str = "\
svg{--back:#ffffff;--ink:#1c2430;--soft:#5b6675;--grid:#e3e7ec;--mid:#0b6bcb;--tail:#c2410c;--band:#0b6bcb22;\
--bar:#8fa3ba;--fault:#b91c1c;background:var(--back);\
font-family:system-ui,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;\
font-size:12px}\
@media(prefers-color-scheme:dark){svg{--back:#12161c;--ink:#e6eaf0;--soft:#9aa7b6;--grid:#2a323d;--mid:#62b0ff;\
--tail:#ff9d5c;--band:#62b0ff26;--bar:#51647a;--fault:#ff7b72}}\
text{fill:var(--ink)}.soft{fill:var(--soft)}.title{font-size:17px;font-weight:600}\
.num{font-variant-numeric:tabular-nums}\
.grid{stroke:var(--grid)}.mid{stroke:var(--mid);fill:none;stroke-width:1.6}\
.tail{stroke:var(--tail);fill:none;stroke-width:1.6}\
.band{fill:var(--band)}.max{fill:var(--tail);opacity:.45}.bar{fill:var(--bar)}.fault{fill:var(--fault);opacity:.8}";

const WIDTH: f64 = 960.0;
const LEFT_MARGIN: f64 = 130.0;
const RIGHT_MARGIN: f64 = 24.0;
const TOP_MARGIN: f64 = 84.0;

/// Height of the latency panel.
const PANEL_HEIGHT: f64 = 260.0;

/// Height of the throughput panel.
const RATE_PANEL_HEIGHT: f64 = 70.0;

/// Height of a row of faults.
const FAULT_LANE_HEIGHT: f64 = 16.0;

/// Gap between two panels.
const PANEL_GAP: f64 = 34.0;

/// Maximum ticks on the time axis.
const TIME_TICKS: f64 = 10.0;

/// An event of the run, drawn beside its latencies.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Name of the event; events of one name share a row.
    pub lane: String,
    /// When it began, in seconds since start.
    pub from: f64,
    /// When it ended.
    pub to: f64,
}

/// Draws a run as SVG.
#[must_use]
pub fn draw(outcome: &Outcome, title: &str, marks: &[Mark]) -> String {
    let points: Vec<Point> = outcome.timeline.points().collect();
    let step = outcome.timeline.step().as_secs_f64();
    let lanes = lanes(marks);
    let end = marks.iter().map(|mark| mark.to).fold(points.len() as f64 * step, f64::max);
    let mut canvas = Canvas {
        svg: String::new(),
        seconds: end.max(1.0),
        step,
        range: range(&points),
        lanes_top: TOP_MARGIN + PANEL_HEIGHT + if lanes.is_empty() { 0.0 } else { PANEL_GAP - 12.0 },
    };
    let rate_top = canvas.lanes_top + lanes.len() as f64 * FAULT_LANE_HEIGHT + PANEL_GAP;
    let table_top = rate_top + RATE_PANEL_HEIGHT + PANEL_GAP + 24.0;
    canvas.head(outcome, title);
    canvas.axes(rate_top + RATE_PANEL_HEIGHT);
    canvas.latencies(&points);
    canvas.marks(&lanes, marks);
    canvas.rates(&points, rate_top);
    canvas.table(outcome, table_top);
    let height = table_top + 64.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--back)\"/>\n{body}</svg>\n",
        title = escaped(title),
        body = canvas.svg,
    )
}

struct Canvas {
    svg: String,
    seconds: f64,
    step: f64,
    /// The visible decades of milliseconds: from and to, as powers of ten.
    range: (i32, i32),
    lanes_top: f64,
}

impl Canvas {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = writeln!(self.svg, "{element}");
    }

    fn x(&self, at: f64) -> f64 {
        LEFT_MARGIN + (WIDTH - LEFT_MARGIN - RIGHT_MARGIN) * (at / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, millis: f64) -> f64 {
        let (low, high) = (f64::from(self.range.0), f64::from(self.range.1));
        let share = (millis.max(1e-3).log10() - low) / (high - low);
        TOP_MARGIN + PANEL_HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!("<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    fn head(&mut self, outcome: &Outcome, title: &str) {
        let report = &outcome.report;
        let verdict = format!(
            "{} accepted, {:.0} a second; {} lost, {} shown twice, {} out of order",
            report.accepted,
            report.rate(),
            report.lost,
            report.doubled,
            report.out_of_order
        );
        self.text(LEFT_MARGIN, 28.0, "title", "start", title);
        self.text(LEFT_MARGIN, 48.0, "soft", "start", &verdict);
        let mut x = WIDTH - RIGHT_MARGIN - 250.0;
        for (class, name) in [("mid", "p50"), ("tail", "p99")] {
            let to = x + 22.0;
            self.put(format_args!("<path class=\"{class}\" d=\"M{x} 68H{to}\"/>"));
            self.text(to + 6.0, 72.0, "", "start", name);
            x += 80.0;
        }
        self.put(format_args!("<circle class=\"max\" cx=\"{x}\" cy=\"68\" r=\"2.5\"/>"));
        self.text(x + 10.0, 72.0, "", "start", "slowest");
        self.text(LEFT_MARGIN, 72.0, "soft", "start", "latency from due time to receiver, log scale");
    }

    fn axes(&mut self, bottom: f64) {
        for power in self.range.0..=self.range.1 {
            let millis = 10_f64.powi(power);
            let y = self.y(millis);
            self.line((LEFT_MARGIN, y), (WIDTH - RIGHT_MARGIN, y));
            self.text(LEFT_MARGIN - 8.0, y + 4.0, "num", "end", &span(millis));
        }
        let tick = time_tick(self.seconds);
        let mut at = 0.0;
        while at <= self.seconds {
            let x = self.x(at);
            self.line((x, TOP_MARGIN), (x, bottom));
            self.text(x, bottom + 16.0, "num", "middle", &clock(at, tick));
            at += tick;
        }
        let unit = if tick < 60.0 { "seconds since start" } else { "minutes since start" };
        self.text(LEFT_MARGIN + (WIDTH - LEFT_MARGIN - RIGHT_MARGIN) / 2.0, bottom + 34.0, "soft", "middle", unit);
        let middle = TOP_MARGIN + PANEL_HEIGHT / 2.0;
        self.put(format_args!(
            "<text class=\"soft\" text-anchor=\"middle\" transform=\"translate(22 {middle}) rotate(-90)\">\
             latency</text>"
        ));
    }

    fn latencies(&mut self, points: &[Point]) {
        // A step without messages is a gap in the lines.
        for run in points.split(|point| point.messages == 0).filter(|run| !run.is_empty()) {
            let half = self.step / 2.0;
            let middle = move |point: &Point| point.at + half;
            let path = |value: &dyn Fn(&Point) -> f64, points: &mut dyn Iterator<Item = &Point>| {
                let corners: Vec<String> =
                    points.map(|point| format!("{:.1} {:.1}", self.x(middle(point)), self.y(value(point)))).collect();
                corners.join("L")
            };
            let mid = path(&|point| point.p50, &mut run.iter());
            let tail = path(&|point| point.p99, &mut run.iter());
            let back = path(&|point| point.p50, &mut run.iter().rev());
            self.put(format_args!("<path class=\"band\" d=\"M{tail}L{back}Z\"/>"));
            self.put(format_args!("<path class=\"tail\" d=\"M{tail}\"/><path class=\"mid\" d=\"M{mid}\"/>"));
            for point in run {
                let (x, y) = (self.x(middle(point)), self.y(point.max));
                self.put(format_args!("<circle class=\"max\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\"/>"));
            }
        }
    }

    fn marks(&mut self, lanes: &[&str], marks: &[Mark]) {
        for (n, lane) in lanes.iter().enumerate() {
            let y = self.lanes_top + n as f64 * FAULT_LANE_HEIGHT;
            self.text(LEFT_MARGIN - 8.0, y + 11.0, "soft", "end", lane);
            for mark in marks.iter().filter(|mark| mark.lane == *lane) {
                let (x, width) = (self.x(mark.from), (self.x(mark.to) - self.x(mark.from)).max(2.0));
                let top = y + 3.0;
                self.put(format_args!(
                    "<rect class=\"fault\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"10\" rx=\"1\"/>"
                ));
            }
        }
    }

    fn rates(&mut self, points: &[Point], top: f64) {
        let rates: Vec<f64> = points.iter().map(|point| point.messages as f64 / self.step).collect();
        let most = rates.iter().copied().fold(1.0, f64::max);
        for (point, rate) in points.iter().zip(rates) {
            let (x, width) = (self.x(point.at), self.x(point.at + self.step) - self.x(point.at));
            let (y, height) = (top + RATE_PANEL_HEIGHT * (1.0 - rate / most), RATE_PANEL_HEIGHT * rate / most);
            let width = if width > 4.0 { width - 1.0 } else { width };
            self.put(format_args!(
                "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\"/>"
            ));
        }
        self.line((LEFT_MARGIN, top + RATE_PANEL_HEIGHT), (WIDTH - RIGHT_MARGIN, top + RATE_PANEL_HEIGHT));
        self.text(LEFT_MARGIN - 8.0, top + 10.0, "num", "end", &format!("{most:.0}"));
        self.text(LEFT_MARGIN - 8.0, top + RATE_PANEL_HEIGHT, "num", "end", "0");
        self.text(LEFT_MARGIN - 8.0, top + RATE_PANEL_HEIGHT / 2.0 + 4.0, "soft", "end", "messages/s");
    }

    fn table(&mut self, outcome: &Outcome, top: f64) {
        let column = |n: usize| LEFT_MARGIN + 150.0 + n as f64 * 130.0;
        for (n, head) in ["p50", "p90", "p99", "p99.9", "max"].iter().enumerate() {
            self.text(column(n), top, "soft", "end", head);
        }
        let rows = [("delivery", &outcome.report.delivery), ("reply to the sender", &outcome.report.answer)];
        for (n, (name, latency)) in rows.iter().enumerate() {
            let y = top + 22.0 + n as f64 * 20.0;
            self.text(LEFT_MARGIN + 30.0, y, "", "end", name);
            let Latency { p50, p90, p99, p999, max } = latency;
            for (n, millis) in [p50, p90, p99, p999, max].into_iter().enumerate() {
                self.text(column(n), y, "num", "end", &span(*millis));
            }
        }
    }
}

/// The names of all rows, in order of first use.
fn lanes(marks: &[Mark]) -> Vec<&str> {
    let mut lanes: Vec<&str> = Vec::new();
    for mark in marks {
        if !lanes.contains(&mark.lane.as_str()) {
            lanes.push(&mark.lane);
        }
    }
    lanes
}

/// The decades that hold all latencies.
fn range(points: &[Point]) -> (i32, i32) {
    let there = || points.iter().filter(|point| point.messages > 0);
    let low = there().map(|point| point.p50).fold(f64::INFINITY, f64::min);
    let high = there().map(|point| point.max).fold(0.0, f64::max);
    if low.is_infinite() {
        return (0, 3);
    }
    let low = low.log10().floor() as i32;
    (low, (high.log10().ceil() as i32).max(low + 1))
}

/// Formats a duration for people.
fn span(millis: f64) -> String {
    match millis {
        ms if ms >= 9_999.5 => format!("{:.0} s", ms / 1e3),
        ms if ms >= 999.5 => format!("{} s", (ms / 100.0).round() / 10.0),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms => format!("{} ms", (ms * 100.0).round() / 100.0),
    }
}

/// Seconds between two ticks on the time axis.
fn time_tick(seconds: f64) -> f64 {
    let ticks = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0];
    ticks.into_iter().find(|tick| seconds / tick <= TIME_TICKS).unwrap_or(seconds / TIME_TICKS)
}

fn clock(at: f64, tick: f64) -> String {
    if tick < 60.0 { format!("{at:.0}") } else { format!("{:.0}", at / 60.0) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{oracle::Report, timeline::Timeline};

    fn outcome(latencies: &[(u64, u64)]) -> Outcome {
        let mut timeline = Timeline::new(Instant::now());
        for (second, millis) in latencies {
            timeline.record(timeline.began + Duration::from_secs(*second), Duration::from_millis(*millis));
        }
        Outcome { clean: true, report: Report::default(), timeline }
    }

    #[test]
    fn plot_axes_scale_with_latency_and_time() {
        let canvas = Canvas {
            svg: String::new(),
            seconds: 10.0,
            step: 1.0,
            range: (0, 4),
            lanes_top: TOP_MARGIN + PANEL_HEIGHT,
        };
        assert!(canvas.y(1_000.0) < canvas.y(10.0) && canvas.x(9.0) > canvas.x(1.0));
        assert_eq!((canvas.y(0.0), canvas.y(1e9)), (TOP_MARGIN + PANEL_HEIGHT, TOP_MARGIN));
    }

    #[test]
    fn plot_draws_lines_and_fault_lanes() {
        let mark = |lane: &str| Mark { lane: lane.to_owned(), from: 1.0, to: 2.0 };
        let svg = draw(&outcome(&[(0, 3), (1, 3_000), (5, 3)]), "a < b", &[mark("kill"), mark("kill"), mark("freeze")]);
        assert_eq!((svg.matches("<path class=\"band\"").count(), svg.matches("class=\"fault\"").count()), (2, 3));
        assert_eq!((svg.matches(">kill<").count(), svg.matches(">freeze<").count()), (1, 1));
        assert!(svg.contains("a &lt; b") && svg.contains("10 s") && !svg.contains("NaN"));
    }

    #[test]
    fn empty_run_can_be_plotted() {
        let svg = draw(&outcome(&[]), "nothing", &[]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn times_are_written_with_few_digits() {
        for (millis, text) in [(0.512, "0.51 ms"), (2.0, "2 ms"), (64.4, "64 ms"), (1_450.0, "1.5 s"), (1e4, "10 s")] {
            assert_eq!(span(millis), text);
        }
    }
}
