"""Plain text statistics, the sober references: PPMd and a Kneser-Ney n-gram."""
