"""Makes and measures the paired models: the only place where torch may appear."""
