// Results: printed as aligned tables, and written as JSON.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tinyllm::bench {

// Median and spread of repeated measurements.
struct Sample {
    double median, low, high;
};
Sample summarize(std::vector<double> values);

// An ordered JSON object of numbers and strings.
class Record {
public:
    Record& add(const std::string& key, double value);
    Record& add(const std::string& key, const Sample& value);  // key, key_low, key_high
    Record& add(const std::string& key, const std::string& value);
    std::string json() const;

private:
    std::vector<std::pair<std::string, std::string>> fields_;  // value is JSON text
};

struct Report {
    Record header;                                     // machine, build, model, ceilings
    std::vector<std::pair<std::string, Record>> rows;  // kind ("prefill", "decode", "kernel", "memory") and values

    void add(const std::string& kind, Record record) { rows.emplace_back(kind, std::move(record)); }
    std::string json() const;
};

// printf into a string.
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace tinyllm::bench
