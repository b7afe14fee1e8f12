//! Drawing what was measured: how much memory of the host's was held over time.

use std::fmt::Write;

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// Seconds since the beginning.
    pub(crate) at: f64,
    /// Megabytes that were held.
    pub(crate) megabytes: f64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for numbers left and below, and for words above.
const LEFT: f64 = 58.0;
const BELOW: f64 = 28.0;
const ABOVE: f64 = 30.0;
const RIGHT: f64 = 12.0;

/// A picture of several: what each is called, its colour, and what was seen of it.
pub(crate) fn svg(lines: &[(&str, &str, &[Point])]) -> String {
    let all = || lines.iter().flat_map(|(_, _, points)| points.iter());
    let end = all().map(|point| point.at).fold(1.0, f64::max);
    let top = all().map(|point| point.megabytes).fold(1.0, f64::max) * 1.05;
    let x = |at: f64| LEFT + (WIDTH - LEFT - RIGHT) * at / end;
    let y = |megabytes: f64| ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - megabytes / top);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    // Writing to a text does not fail.
    let mut put = |line: String| writeln!(text, "{line}").expect("a text grows");
    for mib in (0..=top as u32).step_by(100) {
        let at = y(f64::from(mib));
        put(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - RIGHT));
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mib} MiB</text>", LEFT - 5.0, at + 4.0));
    }
    for second in (0..=end as u32).step_by(if end > 20.0 { 5 } else { 1 }) {
        let at = x(f64::from(second));
        put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>", HEIGHT - 10.0));
    }
    for (n, (name, colour, points)) in lines.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1} {:.1}", x(point.at), y(point.megabytes))).collect();
        put(format!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>", path.join("L")));
        let at = LEFT + 10.0 + 190.0 * n as f64;
        put(format!("<path d=\"M{at:.1} 15h24\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
        put(format!("<text x=\"{:.1}\" y=\"19\">held by {name}</text>", at + 30.0));
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_within_the_picture() {
        let points = [Point { at: 0.0, megabytes: 10.0 }, Point { at: 3.5, megabytes: 240.0 }];
        let text = svg(&[("one", "#292", &points), ("another", "#c33", &points[..1])]);
        assert!(text.contains("held by one") && text.ends_with("</svg>\n"), "{text}");
        let numbers = text.lines().filter_map(|line| line.strip_prefix("<path d=\"M")?.split('"').next());
        for pair in numbers.filter(|path| !path.contains(['H', 'h'])).flat_map(|path| path.split('L')) {
            let (x, y) = pair.split_once(' ').expect("two numbers");
            let (x, y): (f64, f64) = (x.parse().expect("x"), y.parse().expect("y"));
            assert!((LEFT..=WIDTH).contains(&x) && (ABOVE..=HEIGHT).contains(&y), "{pair}");
        }
    }
}
