"""Where bytes come from: origins, by way of a parent proxy or not."""
