"""Passages that tools/quality.py measures on: kinds of text that stress a model in different ways.

Written for this project, so that no data set has to be fetched and the figures in docs/quality.md can be repeated
anywhere. Each value is one independent sequence; the chat passage is a list of messages for the chat template.
"""

from __future__ import annotations

# Passages in languages that an English model hardly follows.
OTHER_LANGUAGES = ("german", "french", "scripts")

PASSAGES: dict[str, str] = {
    "prose": (
        "The lighthouse had been dark for eleven years when the council sent Marta to see whether it could be lit "
        "again. She walked the last mile along the shingle because the road had slipped into the sea, and she "
        "counted her steps aloud to keep the wind from filling her head. The door was swollen shut. Inside, the "
        "stairs smelled of salt and old paint, and somebody had left a chair by the window, turned towards the "
        "water, as if the keeper had only gone down to fetch more tea. She wiped the great lens with her sleeve. It "
        "took the grey afternoon and threw it back across the room in bands of colour."
    ),
    "explanation": (
        "A heat pump does not make heat; it moves heat from a cold place to a warm one. Outside, a liquid with a very "
        "low boiling point absorbs energy from the air and turns into a gas. A compressor squeezes that gas, which "
        "raises its temperature, and the hot gas gives up its energy to the water in the radiators. After that it "
        "passes through a valve, expands, cools, and the cycle begins again. For every unit of electricity that the "
        "compressor uses, three or four units of heat arrive in the house."
    ),
    "python": (
        "def merge_intervals(intervals):\n"
        '    """Return the union of closed intervals as a sorted list of disjoint pairs."""\n'
        "    merged = []\n"
        "    for start, end in sorted(intervals):\n"
        "        if merged and start <= merged[-1][1]:\n"
        "            merged[-1] = (merged[-1][0], max(merged[-1][1], end))\n"
        "        else:\n"
        "            merged.append((start, end))\n"
        "    return merged\n"
        "\n"
        "\n"
        'if __name__ == "__main__":\n'
        "    print(merge_intervals([(1, 3), (8, 10), (2, 6), (15, 18)]))\n"
    ),
    "c": (
        "#include <stdio.h>\n"
        "\n"
        "/* Greatest common divisor by Euclid's algorithm. */\n"
        "static unsigned gcd(unsigned a, unsigned b) {\n"
        "    while (b != 0) {\n"
        "        unsigned rest = a % b;\n"
        "        a = b;\n"
        "        b = rest;\n"
        "    }\n"
        "    return a;\n"
        "}\n"
        "\n"
        "int main(void) {\n"
        '    printf("%u\\n", gcd(1071, 462));\n'
        "    return 0;\n"
        "}\n"
    ),
    "numbers": (
        "Quarterly report, in thousands of euros.\n"
        "Quarter | Revenue | Costs | Profit\n"
        "Q1 | 1,204.5 | 987.2 | 217.3\n"
        "Q2 | 1,318.0 | 1,022.7 | 295.3\n"
        "Q3 | 1,287.4 | 1,101.9 | 185.5\n"
        "Q4 | 1,530.1 | 1,144.6 | 385.5\n"
        "Total revenue was 5,340.0 and total profit 1,083.6, so the margin was about 20.3 percent. "
        "If 17 x 23 = 391 and 391 + 9 = 400, then the square root of the sum is 20."
    ),
    "json": (
        '{"order": {"id": 48213, "placed": "2024-03-18T09:42:07Z", '
        '"customer": {"name": "R. Okafor", "country": "NG"}, '
        '"lines": [{"sku": "KB-104", "quantity": 2, "price": 34.90}, '
        '{"sku": "MS-220", "quantity": 1, "price": 19.50}], '
        '"shipping": null, "paid": true}}'
    ),
    "german": (
        "Am Morgen lag Nebel über dem Fluss, und die Fähre fuhr erst um neun Uhr. Der Kapitän trank seinen Kaffee und "
        "erzählte den Fahrgästen, dass das Wasser im Herbst immer wärmer sei als die Luft."
    ),
    "french": (
        "La boulangerie ouvre à six heures. Dès que la porte s'ouvre, l'odeur du pain chaud remplit la rue, et les "
        "voisins descendent, encore à moitié endormis, pour acheter deux baguettes et quelques croissants."
    ),
    "scripts": (
        "Добрый день, как ваши дела? 今日はとても良い天気ですね。我们明天去公园散步吧。 "
        "Καλημέρα, τι κάνεις σήμερα; ¿Dónde está la estación?"
    ),
}

CHAT: list[dict[str, str]] = [
    {"role": "user", "content": "My tomato plants have yellow leaves near the bottom. What should I do?"},
    {
        "role": "assistant",
        "content": (
            "Yellow lower leaves are usually caused by too much water or too little nitrogen. First check the soil: if "
            "it is wet two fingers deep, water less often. If it is dry, feed the plants with a balanced fertiliser "
            "every two weeks, and remove the yellow leaves so that air can move around the stem."
        ),
    },
    {"role": "user", "content": "The soil is wet. How long should I wait before I water them again?"},
    {
        "role": "assistant",
        "content": (
            "Wait until the top five centimetres are dry, which usually takes three to five days. "
            "After that, water deeply in the morning."
        ),
    },
]
