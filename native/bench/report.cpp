#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "core/error.h"

namespace tinyllm::bench {

namespace {

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
    return out + "\"";
}

}  // namespace

Sample summarize(std::vector<double> values) {
    TL_CHECK(!values.empty());
    std::sort(values.begin(), values.end());
    const size_t middle = values.size() / 2;
    const double median = values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
    return {median, values.front(), values.back()};
}

Record& Record::add(const std::string& key, double value) {
    fields_.emplace_back(key, std::isfinite(value) ? format("%.9g", value) : "null");
    return *this;
}

Record& Record::add(const std::string& key, const Sample& value) {
    return add(key, value.median).add(key + "_low", value.low).add(key + "_high", value.high);
}

Record& Record::add(const std::string& key, const std::string& value) {
    fields_.emplace_back(key, quoted(value));
    return *this;
}

std::string Record::json() const {
    std::string out = "{";
    for (const auto& [key, value] : fields_) out += (out.size() > 1 ? ", " : "") + quoted(key) + ": " + value;
    return out + "}";
}

std::string Report::json() const {
    std::string text = "{\"header\": " + header.json() + ",\n \"results\": [";
    for (size_t i = 0; i < rows.size(); ++i)
        text += (i ? ",\n  " : "\n  ") + std::string("{\"kind\": ") + quoted(rows[i].first) +
                ", \"values\": " + rows[i].second.json() + "}";
    return text + "\n]}\n";
}

std::string format(const char* pattern, ...) {
    va_list args;
    va_start(args, pattern);
    char buffer[512];
    std::vsnprintf(buffer, sizeof buffer, pattern, args);
    va_end(args);
    return buffer;
}

}  // namespace tinyllm::bench
