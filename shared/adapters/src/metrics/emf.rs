//! Metrics in CloudWatch's embedded metric format: lines of JSON in the log, which CloudWatch turns into metrics.
//!
//! Source: Amazon CloudWatch, "Specification: Embedded metric format".

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use kschat_core::{
    Clock, SystemClock,
    metrics::{ALL, Kind, Unit},
};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString};
use serde_json::{Map, Value, json};

/// Raw values of one metric in one line at most; more are written as a histogram.
const MAX_VALUES_PER_METRIC: usize = 100;

/// Metrics in one line at most.
const MAX_METRICS_PER_LINE: usize = 100;

/// The ratio of neighbouring bucket widths, and so the precision of a value.
const HISTOGRAM_BUCKET_RATIO: f64 = 1.2;

/// Collects records until [`Emf::write`] takes them.
#[derive(Debug)]
pub struct Emf {
    namespace: String,
    // Std locks: no guard is held across an await.
    series: RwLock<HashMap<Key, Series>>,
}

/// One metric with one set of labels.
#[derive(Clone, Debug)]
enum Series {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Samples>),
}

impl Emf {
    /// Collects metrics for a namespace of CloudWatch.
    #[must_use]
    pub fn new(namespace: String) -> Self {
        Self { namespace, series: RwLock::default() }
    }

    /// Writes the records since the last call: one line, unless it holds two series of one metric. Gauges are written
    /// every time.
    ///
    /// # Errors
    /// Of `out`.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        let mut text = String::new();
        for line in self.lines(SystemClock.now().millis()) {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        // In one call, as others write lines there, too.
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn lines(&self, now: u64) -> Vec<Value> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut taken: Vec<(&Key, Value)> =
            series.iter().filter_map(|(key, series)| Some((key, series.take()?))).collect();
        // The same values make the same lines.
        taken.sort_by_key(|(key, _)| *key);
        let mut lines: Vec<Line> = Vec::new();
        for (key, value) in taken {
            let at = lines.iter().position(|line| line.has_room_for(key)).unwrap_or_else(|| {
                lines.push(Line::default());
                lines.len() - 1
            });
            lines[at].add(&self.namespace, key, value);
        }
        lines.into_iter().map(|line| line.finish(now)).collect()
    }

    fn series(&self, key: &Key, new: fn() -> Series) -> Series {
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return series.clone();
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        series.entry(key.clone()).or_insert_with(new).clone()
    }
}

impl Series {
    /// The records since the last call; `None` if there are none.
    fn take(&self) -> Option<Value> {
        match self {
            Self::Counter(count) => match count.swap(0, Ordering::Relaxed) {
                0 => None,
                count => Some(count.into()),
            },
            Self::Gauge(bits) => Some(f64::from_bits(bits.load(Ordering::Relaxed)).into()),
            Self::Histogram(samples) => samples.take(),
        }
    }
}

/// The values of a histogram: raw while they are few, else in buckets.
#[derive(Debug, Default)]
struct Samples(Mutex<SampleBuckets>);

#[derive(Debug, Default)]
struct SampleBuckets {
    raw_values: Vec<f64>,
    /// By bucket: the number of values, and their sum.
    buckets: BTreeMap<i32, (u64, f64)>,
}

impl Samples {
    fn lock(&self) -> MutexGuard<'_, SampleBuckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Value> {
        let SampleBuckets { raw_values, mut buckets } = std::mem::take(&mut *self.lock());
        if buckets.is_empty() {
            return (!raw_values.is_empty()).then(|| raw_values.into());
        }
        raw_values.iter().for_each(|value| add_to_bucket(&mut buckets, *value));
        let values: Vec<f64> = buckets.values().map(|(count, sum)| sum / *count as f64).collect();
        let counts: Vec<u64> = buckets.values().map(|(count, _)| *count).collect();
        let (count, sum) = buckets.values().fold((0, 0.0), |(all, total), (count, sum)| (all + count, total + sum));
        // The form in which OpenTelemetry's exporter for CloudWatch writes histograms.
        Some(json!({
            "Max": values.last(), "Min": values.first(), "Count": count, "Sum": sum, "Values": values, "Counts": counts,
        }))
    }
}

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        let mut samples = self.lock();
        if samples.raw_values.len() < MAX_VALUES_PER_METRIC {
            samples.raw_values.push(value);
        } else {
            add_to_bucket(&mut samples.buckets, value);
        }
    }
}

fn add_to_bucket(buckets: &mut BTreeMap<i32, (u64, f64)>, value: f64) {
    // From a microsecond to a day there are 139 buckets; other values count in the outermost ones.
    #[expect(clippy::cast_possible_truncation, reason = "it is within the bounds")]
    let bucket = (value.max(1e-6).ln() / HISTOGRAM_BUCKET_RATIO.ln()).clamp(-80.0, 65.0).floor() as i32;
    let (count, sum) = buckets.entry(bucket).or_default();
    *count += 1;
    *sum += value;
}

/// One line under construction: series of different metrics with the same labels.
#[derive(Default)]
struct Line {
    directives: Vec<Value>,
    members: Map<String, Value>,
}

impl Line {
    fn has_room_for(&self, key: &Key) -> bool {
        let agrees = |label: &metrics::Label| match self.members.get(label.key()) {
            Some(value) => value == label.value(),
            None => true,
        };
        self.directives.len() < MAX_METRICS_PER_LINE
            && !self.members.contains_key(key.name())
            && key.labels().all(agrees)
    }

    fn add(&mut self, namespace: &str, key: &Key, value: Value) {
        let known = ALL.iter().find(|metric| metric.name == key.name());
        let unit = known.map_or("None", |metric| Unit::name(metric.unit));
        let labels: Vec<&str> = key.labels().map(metrics::Label::key).collect();
        let mut dimensions = vec![json!(labels)];
        if !labels.is_empty() && known.is_some_and(|metric| metric.kind == Kind::Counter) {
            // The sum over all labels, too: an alarm can't add up.
            dimensions.push(json!([]));
        }
        self.directives.push(json!({
            "Namespace": namespace, "Dimensions": dimensions, "Metrics": [{ "Name": key.name(), "Unit": unit }],
        }));
        self.members.extend(key.labels().map(|label| (label.key().to_owned(), label.value().into())));
        self.members.insert(key.name().to_owned(), value);
    }

    fn finish(mut self, now: u64) -> Value {
        let metadata = json!({ "Timestamp": now, "CloudWatchMetrics": self.directives });
        self.members.insert("_aws".to_owned(), metadata);
        Value::Object(self.members)
    }
}

impl Recorder for Emf {
    fn describe_counter(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<metrics::Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.series(key, || Series::Counter(Arc::default())) {
            Series::Counter(counter) => Counter::from_arc(counter),
            Series::Gauge(_) | Series::Histogram(_) => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.series(key, || Series::Gauge(Arc::default())) {
            Series::Gauge(gauge) => Gauge::from_arc(gauge),
            Series::Counter(_) | Series::Histogram(_) => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.series(key, || Series::Histogram(Arc::default())) {
            Series::Histogram(samples) => Histogram::from_arc(samples),
            Series::Counter(_) | Series::Gauge(_) => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kschat_core::metrics as ours;
    use kschat_protocol::ErrorCode;
    use metrics::with_local_recorder;

    use super::*;

    fn lines(emf: &Emf) -> Vec<Value> {
        let mut text = Vec::new();
        emf.write(&mut text).unwrap();
        String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn invocation_writes_one_emf_line() {
        let emf = Emf::new("chat".to_owned());
        with_local_recorder(&emf, || {
            ours::SENDS.add_code(ErrorCode::Ok);
            ours::ACCEPT.record_duration(Duration::from_millis(5));
        });
        let [line] = &*lines(&emf) else { panic!("not one line") };
        assert!(line["_aws"]["Timestamp"].as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!((&line["er"], &line["kschat_sends_total"]), (&json!("0"), &json!(1)));
        assert_eq!(line["kschat_accept_seconds"], json!([0.005]));
        let accept = json!({ "Namespace": "chat", "Dimensions": [[]],
            "Metrics": [{ "Name": "kschat_accept_seconds", "Unit": "Seconds" }] });
        let sends = json!({ "Namespace": "chat", "Dimensions": [["er"], []],
            "Metrics": [{ "Name": "kschat_sends_total", "Unit": "Count" }] });
        assert_eq!(line["_aws"]["CloudWatchMetrics"], json!([accept, sends]));
        assert!(lines(&emf).is_empty(), "a sample is written once");
    }

    #[test]
    fn series_with_different_labels_get_separate_lines() {
        let emf = Emf::new("chat".to_owned());
        with_local_recorder(&emf, || {
            for outcome in ["reached", "reached", "gone", "busy"] {
                ours::PUSHES.add_to(outcome);
            }
            ours::MEMBERS.set(2);
        });
        let lines = lines(&emf);
        let outcomes: Vec<_> = lines.iter().map(|line| (&line["outcome"], &line["kschat_pushes_total"])).collect();
        assert_eq!(
            outcomes,
            [(&json!("busy"), &json!(1)), (&json!("gone"), &json!(1)), (&json!("reached"), &json!(2))]
        );
        assert_eq!(lines.iter().filter(|line| line["kschat_members"] == 2.0).count(), 1);
    }

    #[test]
    fn many_values_are_written_as_buckets() {
        let emf = Emf::new("chat".to_owned());
        with_local_recorder(&emf, || {
            for millis in 1..=10_000 {
                ours::PUSH.record_duration(Duration::from_millis(millis));
            }
        });
        let metric = &lines(&emf)[0]["kschat_push_seconds"];
        let (values, counts) = (metric["Values"].as_array().unwrap(), metric["Counts"].as_array().unwrap());
        assert!(values.len() == counts.len() && values.len() <= MAX_VALUES_PER_METRIC, "{metric}");
        assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 10_000);
        assert!((metric["Sum"].as_f64().unwrap() - 50_005.0).abs() < 1.0, "{metric}");
    }
}
