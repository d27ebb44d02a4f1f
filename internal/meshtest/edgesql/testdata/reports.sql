-- Revenue by country and genre.
SELECT c.Country, g.Name AS Genre, sum(l.UnitPrice * l.Quantity) AS Revenue, count(*) AS Lines FROM Invoice i JOIN Customer c USING (CustomerId) JOIN InvoiceLine l USING (InvoiceId) JOIN Track t USING (TrackId) JOIN Genre g USING (GenreId) GROUP BY c.Country, g.GenreId ORDER BY c.Country, Revenue DESC, g.GenreId;
-- Best-selling artists.
SELECT ar.ArtistId, ar.Name, sum(l.Quantity) AS Sold FROM Artist ar JOIN Album al USING (ArtistId) JOIN Track t USING (AlbumId) JOIN InvoiceLine l USING (TrackId) GROUP BY ar.ArtistId ORDER BY Sold DESC, ar.ArtistId LIMIT 20;
-- Each customer's favourite genre.
WITH spent AS (SELECT i.CustomerId, t.GenreId, sum(l.Quantity) AS n FROM Invoice i JOIN InvoiceLine l USING (InvoiceId) JOIN Track t USING (TrackId) GROUP BY 1, 2), ranked AS (SELECT *, row_number() OVER (PARTITION BY CustomerId ORDER BY n DESC, GenreId) AS place FROM spent) SELECT c.CustomerId, c.FirstName || ' ' || c.LastName AS Customer, g.Name, r.n FROM ranked r JOIN Customer c USING (CustomerId) JOIN Genre g USING (GenreId) WHERE place = 1 ORDER BY c.CustomerId;
-- Monthly revenue and its running sum.
SELECT strftime('%Y-%m', InvoiceDate) AS Month, sum(Total) AS Revenue, sum(sum(Total)) OVER (ORDER BY strftime('%Y-%m', InvoiceDate)) AS Running FROM Invoice GROUP BY 1 ORDER BY 1;
-- Sales of each support agent.
SELECT e.EmployeeId, e.LastName, count(DISTINCT c.CustomerId), count(i.InvoiceId), sum(i.Total) FROM Employee e LEFT JOIN Customer c ON c.SupportRepId = e.EmployeeId LEFT JOIN Invoice i ON i.CustomerId = c.CustomerId GROUP BY e.EmployeeId ORDER BY e.EmployeeId;
-- Who reports to whom, down the tree.
WITH RECURSIVE tree (id, name, level, path) AS (SELECT EmployeeId, LastName, 0, LastName FROM Employee WHERE ReportsTo IS NULL UNION ALL SELECT e.EmployeeId, e.LastName, level + 1, path || '/' || e.LastName FROM Employee e JOIN tree ON e.ReportsTo = tree.id) SELECT * FROM tree ORDER BY path;
-- Tracks that nobody bought.
SELECT t.TrackId, t.Name, al.Title FROM Track t JOIN Album al USING (AlbumId) LEFT JOIN InvoiceLine l USING (TrackId) WHERE l.InvoiceLineId IS NULL ORDER BY t.TrackId LIMIT 100;
-- The longest track of each album, of artists with A.
SELECT ar.Name, al.Title, t.Name, t.Milliseconds FROM Artist ar JOIN Album al USING (ArtistId) JOIN Track t USING (AlbumId) WHERE ar.Name LIKE 'A%' AND t.Milliseconds = (SELECT max(Milliseconds) FROM Track WHERE AlbumId = al.AlbumId) ORDER BY al.AlbumId, t.TrackId;
-- Playlists by length and variety.
SELECT p.PlaylistId, p.Name, count(*) AS Tracks, count(DISTINCT t.GenreId) AS Genres, sum(t.Milliseconds) / 60000 AS Minutes FROM Playlist p JOIN PlaylistTrack USING (PlaylistId) JOIN Track t USING (TrackId) GROUP BY p.PlaylistId ORDER BY Tracks DESC, p.PlaylistId;
-- Playlists without tracks.
SELECT PlaylistId, Name FROM Playlist WHERE PlaylistId NOT IN (SELECT PlaylistId FROM PlaylistTrack) ORDER BY 1;
-- Customers above their country's average.
SELECT c.CustomerId, c.Country, s.Spent FROM Customer c JOIN (SELECT CustomerId, sum(Total) AS Spent FROM Invoice GROUP BY CustomerId) s USING (CustomerId) WHERE s.Spent > (SELECT avg(x.Spent) + 0.001 FROM (SELECT c2.Country, sum(i2.Total) AS Spent FROM Customer c2 JOIN Invoice i2 USING (CustomerId) GROUP BY c2.CustomerId) x WHERE x.Country = c.Country) ORDER BY c.CustomerId;
-- Quartiles of invoices.
SELECT Quarter, count(*), min(Total), max(Total) FROM (SELECT Total, ntile(4) OVER (ORDER BY Total, InvoiceId) AS Quarter FROM Invoice) GROUP BY Quarter ORDER BY Quarter;
-- Change of revenue from year to year.
WITH years AS (SELECT strftime('%Y', InvoiceDate) AS y, sum(Total) AS r FROM Invoice GROUP BY 1) SELECT y, round(r, 2), round(r - lag(r) OVER (ORDER BY y), 2), first_value(y) OVER (ORDER BY y DESC) FROM years ORDER BY y;
-- Albums with tracks of several genres.
SELECT al.AlbumId, al.Title, count(DISTINCT t.GenreId) AS Genres, group_concat(DISTINCT g.Name ORDER BY g.Name) FROM Album al JOIN Track t USING (AlbumId) JOIN Genre g USING (GenreId) GROUP BY al.AlbumId HAVING Genres > 1 ORDER BY al.AlbumId;
-- Cities with customers and with invoices, compared.
SELECT City FROM Customer EXCEPT SELECT BillingCity FROM Invoice UNION SELECT City FROM Employee INTERSECT SELECT City FROM Customer ORDER BY 1;
-- Tracks on several playlists.
SELECT t.TrackId, t.Name, count(*) AS Lists, group_concat(p.Name, '; ' ORDER BY p.PlaylistId) FROM Track t JOIN PlaylistTrack pt USING (TrackId) JOIN Playlist p USING (PlaylistId) GROUP BY t.TrackId HAVING count(*) >= 5 ORDER BY Lists DESC, t.TrackId;
-- Revenue by media type and file size.
SELECT m.Name, CASE WHEN t.Bytes < 5000000 THEN 'small' WHEN t.Bytes < 20000000 THEN 'medium' ELSE 'large' END AS Size, count(*), total(l.UnitPrice) FROM InvoiceLine l JOIN Track t USING (TrackId) JOIN MediaType m USING (MediaTypeId) GROUP BY m.MediaTypeId, Size ORDER BY m.MediaTypeId, Size;
-- Artists without albums.
SELECT ArtistId, Name FROM Artist ar WHERE NOT EXISTS (SELECT 1 FROM Album WHERE ArtistId = ar.ArtistId) ORDER BY Name, ArtistId LIMIT 50;
-- Composers who are artists too.
SELECT DISTINCT t.Composer FROM Track t JOIN Artist ar ON ar.Name = t.Composer ORDER BY 1;
-- Pairs of customers of one city.
SELECT a.CustomerId, b.CustomerId, a.City FROM Customer a JOIN Customer b ON a.City = b.City AND a.CustomerId < b.CustomerId ORDER BY 1, 2;
-- First and last purchase, and the days between.
SELECT c.CustomerId, min(i.InvoiceDate), max(i.InvoiceDate), julianday(max(i.InvoiceDate)) - julianday(min(i.InvoiceDate)) FROM Customer c JOIN Invoice i USING (CustomerId) GROUP BY c.CustomerId ORDER BY 4 DESC, 1;
-- Days between a customer's purchases.
SELECT CustomerId, InvoiceId, julianday(InvoiceDate) - julianday(lag(InvoiceDate) OVER w) AS Days FROM Invoice WINDOW w AS (PARTITION BY CustomerId ORDER BY InvoiceDate, InvoiceId) ORDER BY CustomerId, InvoiceId;
-- Genres by country, ranked.
SELECT * FROM (SELECT i.BillingCountry AS Country, g.Name AS Genre, count(*) AS n, dense_rank() OVER (PARTITION BY i.BillingCountry ORDER BY count(*) DESC) AS place FROM Invoice i JOIN InvoiceLine l USING (InvoiceId) JOIN Track t USING (TrackId) JOIN Genre g USING (GenreId) GROUP BY 1, 2) WHERE place <= 2 ORDER BY Country, place, Genre;
-- One invoice, whole.
SELECT i.InvoiceId, c.LastName, e.LastName AS Agent, t.Name, ar.Name AS Artist, l.UnitPrice FROM Invoice i JOIN Customer c USING (CustomerId) JOIN Employee e ON e.EmployeeId = c.SupportRepId JOIN InvoiceLine l USING (InvoiceId) JOIN Track t USING (TrackId) JOIN Album al USING (AlbumId) JOIN Artist ar USING (ArtistId) WHERE i.InvoiceId = 98 ORDER BY l.InvoiceLineId;
-- Sums of invoices and of their lines agree.
SELECT i.InvoiceId, i.Total, sum(l.UnitPrice * l.Quantity) AS Lines FROM Invoice i JOIN InvoiceLine l USING (InvoiceId) GROUP BY i.InvoiceId HAVING abs(i.Total - Lines) > 0.001 ORDER BY 1;
-- A customer as JSON, with invoices.
SELECT json_object('id', c.CustomerId, 'name', c.LastName, 'invoices', (SELECT json_group_array(json_object('id', i.InvoiceId, 'total', i.Total) ORDER BY i.InvoiceId) FROM Invoice i WHERE i.CustomerId = c.CustomerId)) FROM Customer c WHERE c.Country = 'Germany' ORDER BY c.CustomerId;
-- Tracks by a list of ids from JSON.
SELECT t.TrackId, t.Name FROM json_each('[3, 2819, 99999, 14]') j JOIN Track t ON t.TrackId = j.value ORDER BY t.TrackId;
-- Moving average of the last three invoices.
SELECT CustomerId, InvoiceId, avg(Total) OVER (PARTITION BY CustomerId ORDER BY InvoiceId ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM Invoice WHERE CustomerId < 15 ORDER BY 1, 2;
-- Share of each genre in all tracks.
SELECT g.Name, count(*) AS n, round(100.0 * count(*) / sum(count(*)) OVER (), 2) AS Percent FROM Track t JOIN Genre g USING (GenreId) GROUP BY g.GenreId ORDER BY n DESC, g.Name;
-- The page of tracks after one, by name.
SELECT TrackId, Name FROM Track WHERE (Name, TrackId) > ('M', 0) ORDER BY Name, TrackId LIMIT 25;
-- Tracks of expensive and long kinds.
SELECT TrackId FROM Track WHERE (UnitPrice > 1 AND Milliseconds > 2500000) OR (GenreId IN (SELECT GenreId FROM Genre WHERE Name IN ('Opera', 'Classical')) AND Milliseconds < 120000) ORDER BY 1;
-- A calendar of months with and without sales.
WITH RECURSIVE months (m) AS (SELECT date('2009-01-01') UNION ALL SELECT date(m, '+1 month') FROM months WHERE m < '2013-12-01') SELECT m, count(i.InvoiceId), total(i.Total) FROM months LEFT JOIN Invoice i ON strftime('%Y-%m', i.InvoiceDate) = substr(m, 1, 7) GROUP BY m ORDER BY m;
-- Agents and the countries they serve.
SELECT e.LastName, group_concat(DISTINCT c.Country ORDER BY c.Country), max(i.Total) FILTER (WHERE i.BillingState IS NOT NULL) FROM Employee e JOIN Customer c ON c.SupportRepId = e.EmployeeId JOIN Invoice i USING (CustomerId) GROUP BY e.EmployeeId ORDER BY e.EmployeeId;
-- Artists of the playlist Grunge, by way of five tables.
SELECT DISTINCT ar.Name FROM Playlist p JOIN PlaylistTrack pt USING (PlaylistId) JOIN Track t USING (TrackId) JOIN Album al USING (AlbumId) JOIN Artist ar USING (ArtistId) WHERE p.Name = 'Grunge' ORDER BY ar.Name COLLATE NOCASE;
